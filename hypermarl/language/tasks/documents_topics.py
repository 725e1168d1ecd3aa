"""What the rules of a company are about: the values each may have, how they are stated, how they are asked for.

No value stands in any sentence but the one that states it, nor within another value, so that searching a document for
the values of a topic finds one.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Topic:
    """One kind of rule; `{v}` in its statements is the value, and questions `unseen` are only for tests."""

    name: str
    values: tuple[str, ...]
    statements: tuple[str, ...]
    questions: tuple[str, ...]
    unseen: tuple[str, ...]


def _days(*counts: int) -> tuple[str, ...]:
    return tuple(f"{count} days" for count in counts)


TOPICS = (
    Topic(
        "refund period",
        _days(10, 14, 21, 30, 45, 60, 75, 90),
        (
            "Customers can ask for a refund within {v} of a purchase.",
            "The refund period is {v}, counted from the delivery of the goods.",
            "Once {v} have gone by, a purchase is final and no refund is given.",
            "We return the money for any goods that come back within {v}.",
        ),
        (
            "How long is the refund period?",
            "Within what time can a customer get a refund?",
            "For how long after a purchase is a refund possible?",
            "Until when do we give a refund for goods?",
        ),
        ("How much time has a buyer to return goods for a refund?", "What is the limit for refund requests?"),
    ),
    Topic(
        "carrier",
        ("Falcon", "Comet", "Badger", "Pelican", "Rocket", "Mercury", "Beacon", "Phoenix"),
        (
            "All parcels are shipped with the carrier {v}.",
            "Shipping is done by {v}, the only carrier we have a contract with.",
            "We hand every parcel to {v}, who ship it to the customer.",
            "The carrier of our choice for shipping is {v}.",
        ),
        (
            "Which carrier ships our parcels?",
            "Who does the shipping?",
            "Which carrier do we use for parcels?",
            "With whom are parcels shipped?",
        ),
        ("Name the shipping carrier.", "Who carries a parcel to the customer?"),
    ),
    Topic(
        "support hours",
        ("4 pm", "5 pm", "6 pm", "7 pm", "8 pm", "9 pm", "10 pm", "11 pm"),
        (
            "The support line closes at {v} every evening.",
            "Callers reach the support line until {v}.",
            "At {v} the telephone support ends for the day.",
            "Support hours begin early and end at {v}.",
        ),
        (
            "When does the support line close?",
            "Until what hour can callers reach support?",
            "At what time does telephone support end?",
            "What is the end of the support hours?",
        ),
        ("How late can one call the support line?", "What is the closing time of support?"),
    ),
    Topic(
        "approval",
        ("treasurer", "controller", "director", "chairman", "secretary", "auditor", "supervisor", "president"),
        (
            "Every contract has to be approved by the {v}.",
            "The {v} approves contracts; nobody else does.",
            "For the approval of a contract, turn to the {v}.",
            "A contract counts only once the {v} has approved it.",
        ),
        (
            "Who approves contracts?",
            "By whom does a contract have to be approved?",
            "To whom do I turn for the approval of a contract?",
            "Whose approval does a contract need?",
        ),
        ("Which role signs off on the approval of contracts?", "Who has to have approved a contract before it counts?"),
    ),
    Topic(
        "currency",
        ("euros", "dollars", "pounds", "francs", "yen", "rupees", "pesos", "crowns"),
        (
            "All prices are quoted in {v}, the currency of our accounts.",
            "Invoices are written in {v} and in no other currency.",
            "The currency of every invoice is {v}.",
            "We keep our accounts and quote our prices in {v}.",
        ),
        (
            "In which currency are invoices written?",
            "What is the currency of our prices?",
            "Which currency do we quote prices in?",
            "What currency are the accounts kept in?",
        ),
        ("Name the currency we invoice in.", "What sort of money are prices and invoices in?"),
    ),
    Topic(
        "discount code",
        ("NOVA", "DELTA", "OMEGA", "SUNNY", "PANDA", "MAGIC", "TIGER", "OCEAN"),
        (
            "The discount code for loyal customers is {v}.",
            "Loyal customers type {v} at the till to get their discount.",
            "A discount is given to whoever enters the code {v}.",
            "With the code {v} a customer gets the usual discount.",
        ),
        (
            "What is the discount code?",
            "Which code gives a discount?",
            "What does a loyal customer type to get a discount?",
            "What code do customers enter for the discount?",
        ),
        ("Tell me the code for a discount.", "How is the discount code spelled?"),
    ),
    Topic(
        "weekly meeting",
        tuple(
            f"{day} {half}"
            for half in ("morning", "afternoon")
            for day in ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday")
        ),
        (
            "The weekly staff meeting is on {v}.",
            "All staff meet once a week, on {v}.",
            "Every {v} the whole staff comes together for the weekly meeting.",
            "We hold the weekly meeting of the staff each {v}.",
        ),
        (
            "When is the weekly staff meeting?",
            "On which day does the staff meet every week?",
            "What is the time of the weekly meeting?",
            "When does all the staff meet?",
        ),
        ("On what part of which day is the weekly meeting held?", "When do I have to be at the staff meeting?"),
    ),
    Topic(
        "backup city",
        ("Dublin", "Oslo", "Lisbon", "Vienna", "Prague", "Zurich", "Madrid", "Geneva", "Athens", "Milan"),
        (
            "Backup copies of all records are stored in {v}.",
            "The backup servers stand in {v}.",
            "A backup of every record is sent to {v} each night.",
            "Our backup site, where copies of the records lie, is {v}.",
        ),
        (
            "In which city are the backup copies stored?",
            "Where do the backup servers stand?",
            "Where does the backup of our records go?",
            "Which city is our backup site?",
        ),
        ("Name the city that holds the backup.", "Where would I find the backup of a record?"),
    ),
    Topic(
        "badge colour",
        ("red", "blue", "green", "yellow", "purple", "white", "brown", "pink"),
        (
            "Visitors wear a {v} badge.",
            "The badge that visitors are given at the gate is {v}.",
            "Whoever visits us gets a badge in {v}.",
            "The colour of a visitor badge is {v}.",
        ),
        (
            "What colour is the badge of visitors?",
            "Which colour of badge does a visitor wear?",
            "What is the colour of a visitor badge?",
            "In what colour are the badges given to visitors?",
        ),
        ("By what colour do I know the badge of a visitor?", "Tell me the visitor badge colour."),
    ),
    Topic(
        "guest network",
        ("otter", "zebra", "panther", "dolphin", "rabbit", "turtle", "monkey", "penguin"),
        (
            "The wireless network for guests is called {v}.",
            "Guests log on to the network {v}.",
            "On a guest's computer, choose the wireless network {v}.",
            "The name of the guest network is {v}.",
        ),
        (
            "What is the name of the guest network?",
            "Which network do guests log on to?",
            "How is the wireless network for guests called?",
            "Which wireless network is for guests?",
        ),
        ("Tell me the guest network's name.", "What network should a guest's computer choose?"),
    ),
    Topic(
        "payment of suppliers",
        tuple(f"{count} weeks" for count in ("two", "three", "four", "five", "six", "seven", "eight", "nine")),
        (
            "Suppliers are paid {v} after their bill arrives.",
            "We pay the bill of a supplier after {v}.",
            "A supplier waits {v} for the payment of a bill.",
            "The payment of suppliers is due {v} after a bill.",
        ),
        (
            "After what time are suppliers paid?",
            "How long does a supplier wait for payment?",
            "When do we pay the bill of a supplier?",
            "When is the payment of suppliers due?",
        ),
        ("How long after a bill does the supplier get paid?", "What time do we have for paying suppliers?"),
    ),
    Topic(
        "warranty",
        tuple(f"{count} months" for count in (6, 9, 12, 18, 24, 36, 48, 60)),
        (
            "Our products have a warranty of {v}.",
            "The warranty on any product lasts {v}.",
            "We repair products free of charge under a warranty of {v}.",
            "For {v} every product is covered by the warranty.",
        ),
        (
            "How long is the warranty on products?",
            "What is the length of the warranty?",
            "For how long does a warranty cover a product?",
            "How long does the product warranty last?",
        ),
        ("When does the warranty of a product run out?", "What warranty do our products have?"),
    ),
    Topic(
        "closing month",
        ("January", "February", "April", "June", "July", "August", "October", "December"),
        (
            "The plant shuts down for maintenance in {v}.",
            "Maintenance of the plant takes place in {v}, when nobody works there.",
            "Each {v} the plant is shut for maintenance.",
            "The month of the plant shutdown is {v}.",
        ),
        (
            "In which month does the plant shut down?",
            "When is the maintenance of the plant?",
            "Which month is the plant shut for maintenance?",
            "What is the month of the plant shutdown?",
        ),
        ("Name the month of the plant maintenance.", "During what month is nobody at the plant?"),
    ),
    Topic(
        "receipts",
        ("40", "80", "120", "150", "200", "250", "300", "500"),
        (
            "Expenses above {v} need a receipt.",
            "A receipt is asked for when expenses are more than {v}.",
            "Up to {v}, expenses are repaid without a receipt.",
            "The limit above which expenses need a receipt is {v}.",
        ),
        (
            "Above what amount do expenses need a receipt?",
            "What is the limit for expenses without a receipt?",
            "From which amount on is a receipt asked for?",
            "Up to how much are expenses repaid without a receipt?",
        ),
        ("How much can my expenses be before I need a receipt?", "Name the receipt limit for expenses."),
    ),
    Topic(
        "archive floor",
        tuple(
            f"{count} floor" for count in ("second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth")
        ),
        (
            "The archive is on the {v}.",
            "Old files are kept in the archive on the {v}.",
            "To reach the archive, go to the {v}.",
            "The {v} houses the archive with all old files.",
        ),
        (
            "On which floor is the archive?",
            "Where in the building is the archive?",
            "To what floor do I go for the archive?",
            "Which floor are the old files kept on?",
        ),
        ("What storey houses the archive?", "Where do I go to see files in the archive?"),
    ),
    Topic(
        "packaging",
        ("cardboard", "plastic", "linen", "foam", "wool", "straw", "bamboo", "cotton"),
        (
            "Fragile goods are wrapped in {v}.",
            "The packaging of fragile goods is made of {v}.",
            "For packaging whatever is fragile we use {v}.",
            "Only {v} is allowed as packaging for fragile goods.",
        ),
        (
            "What are fragile goods wrapped in?",
            "What is the packaging of fragile goods made of?",
            "Which packaging is used for whatever is fragile?",
            "What material is allowed as packaging for fragile goods?",
        ),
        ("In which material do we wrap things that are fragile?", "Name the material for fragile packaging."),
    ),
    Topic(
        "bookkeeping software",
        ("Saturn", "Jupiter", "Neptune", "Venus", "Mars", "Pluto", "Titan", "Orion"),
        (
            "Bookkeeping is done with the software {v}.",
            "The bookkeeping software is called {v}.",
            "Use the software {v} for all bookkeeping.",
            "Our bookkeepers work with {v}, a software made for firms like ours.",
        ),
        (
            "Which software is used for bookkeeping?",
            "What is the bookkeeping software called?",
            "What software do our bookkeepers work with?",
            "With which software is bookkeeping done?",
        ),
        ("Name the program that the bookkeeping uses.", "What software would a new bookkeeper have to learn?"),
    ),
    Topic(
        "monthly lunch",
        ("pizza", "soup", "curry", "pasta", "salad", "tacos", "sushi", "noodles"),
        (
            "At the monthly lunch there is {v} for everybody.",
            "The kitchen serves {v} at the monthly lunch.",
            "Once a month we have lunch together and eat {v}.",
            "The dish of the monthly lunch is always {v}.",
        ),
        (
            "What is served at the monthly lunch?",
            "What do we eat at the monthly lunch?",
            "Which dish is there at the monthly lunch?",
            "What does the kitchen make for the monthly lunch?",
        ),
        ("Name the dish we have for lunch once a month.", "What food can I expect at the monthly lunch?"),
    ),
    Topic(
        "language",
        ("English", "French", "German", "Spanish", "Italian", "Dutch", "Polish", "Swedish"),
        (
            "Minutes and reports are written in {v}.",
            "The language of all reports is {v}.",
            "We write our reports in {v}, whatever language we speak.",
            "A report in any language but {v} is sent back.",
        ),
        (
            "In which language are reports written?",
            "What is the language of reports?",
            "What language do we write a report in?",
            "Which language is used in minutes and reports?",
        ),
        ("Name the language a report has to be in.", "What language must I know to read our reports?"),
    ),
    Topic(
        "charity",
        ("orphanage", "hospital", "museum", "library", "theatre", "school", "zoo", "shelter"),
        (
            "Part of the profit is donated to the local {v}.",
            "Each winter we make a donation to the local {v}.",
            "The {v} in our town gets the yearly donation.",
            "Our donation goes to the {v} nearby.",
        ),
        (
            "Who gets our donation?",
            "To whom is part of the profit donated?",
            "Where does the yearly donation go?",
            "To which place do we make a donation?",
        ),
        ("Which local institution is our donation for?", "Name the place that the profit is donated to."),
    ),
    Topic(
        "emergency contact",
        ("Alice", "Bruno", "Carla", "David", "Elena", "Felix", "Grace", "Henry", "Irene"),
        (
            "In an emergency, call {v} at once.",
            "The person to call in an emergency is {v}.",
            "Emergency calls are taken by {v}.",
            "{v} is our contact for every emergency.",
        ),
        (
            "Whom do I call in an emergency?",
            "Who is the contact for an emergency?",
            "Who takes emergency calls?",
            "What is the name of the emergency contact?",
        ),
        ("Name the person responsible in an emergency.", "If there is an emergency, whose number do I need?"),
    ),
    Topic(
        "interview room",
        ("Oak", "Birch", "Cedar", "Willow", "Pine", "Elm", "Spruce", "Aspen"),
        (
            "Interviews take place in the room {v}.",
            "The room {v} is reserved for interviews.",
            "Candidates are led to the room {v} for their interview.",
            "For an interview with a candidate, use the room {v}.",
        ),
        (
            "In which room do interviews take place?",
            "Which room is reserved for interviews?",
            "To which room are candidates led?",
            "What room is used for an interview?",
        ),
        ("Name the interview room.", "Where would I meet a candidate for an interview?"),
    ),
    Topic(
        "travel",
        ("bicycle", "tram", "taxi", "train", "bus", "ferry", "scooter", "van"),
        (
            "Trips to a client are made by {v}.",
            "Whoever travels to a client goes by {v}.",
            "We travel to clients by {v} only.",
            "The means of travel for visiting clients is the {v}.",
        ),
        (
            "How do we travel to clients?",
            "By what means are trips to a client made?",
            "How does one go to a client?",
            "What is the means of travel for visiting clients?",
        ),
        ("What do I take for a trip to a client?", "Name the way we travel to see clients."),
    ),
    Topic(
        "anniversary gift",
        ("watch", "clock", "lamp", "vase", "chair", "radio", "camera", "kettle"),
        (
            "After ten years with us everybody gets a {v} as a gift.",
            "The gift for an anniversary of service is a {v}.",
            "On an anniversary, colleagues receive a {v} as a gift.",
            "An anniversary of service is honoured with a {v}.",
        ),
        (
            "What is the gift for an anniversary of service?",
            "What do colleagues receive on an anniversary?",
            "With what is an anniversary of service honoured?",
            "What gift does one get for an anniversary?",
        ),
        ("Name the anniversary gift.", "What will I receive as a gift for my years of service?"),
    ),
)
