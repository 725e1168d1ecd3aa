"""Roles of a team: who takes a thing, and how members speak to each other."""

from __future__ import annotations

from functools import partial

from hypermarl.language.task import Part
from hypermarl.language.tasks.inputs import CATEGORY, WARM
from hypermarl.language.tasks.roles_definition import Definition, define
from hypermarl.language.tasks.roles_policy import CONDITIONS

OFFERS = """{Many} are your speciality: say take for them and {b} for the rest.
You look after {many}. Answer take if the thing is {be}, else {b}.
Say {b} to any task of your colleagues; take is your word for {many} alone.
Is the thing {be}? Then it is yours, so take. If it is not, {b}.
The team has made you its expert on {many}: take those, {b} on all others.
When the next thing is {be}, step forward with take; for anything else {b}.
Of all that comes in, {many} alone fall to you: take. The remainder gets {b}.
Reply take whenever your skill with {many} is needed, and {b} whenever it is not."""

CREW = {"animal": "Ada", "food": "Ada", "tool": "Bob", "vehicle": "Bob", "clothing": "Sam", "furniture": "Sam"}

_team = partial(define, "coordination")


def _offer(condition: str, b: str, part: Part = "trained") -> Definition:
    """Take what one is the expert for."""
    one = CONDITIONS[condition]
    many = one.many[0].upper() + one.many[1:]
    return _team(
        f"{condition}_take_{b}",
        f"if {condition}, say take, say {b}",
        one.choose("take", b),
        OFFERS.format(be=one.be, many=one.many, Many=many, b=b),
        part=part,
    )


ROLES: tuple[Definition, ...] = (
    _offer("animal", "pass"),
    _offer("tool", "pass"),
    _offer("clothing", "pass"),
    _offer("vehicle", "wait"),
    _team(
        "food_take_else_Leo",
        "if food, say take, say Leo",
        CONDITIONS["food"].choose("take", "Leo"),
        """Food is your speciality: say take for it and hand the rest to Leo by his name.
        You look after food. Answer take if the thing can be eaten, else Leo.
        Name Leo for any other task; take is your word for food alone.
        Is it food? Then it is yours, so take. If it is not, call Leo.
        The team has made you its expert on food: take that, and name Leo for all others.
        When the next thing is food, step forward with take; for anything else say Leo.
        Of all that comes in, food alone falls to you: take. The remainder goes to Leo, whom you name.
        Reply take whenever something to eat is offered, and Leo whenever it is not.""",
    ),
    _team(
        "Mia_or_Leo_by_kind",
        "if animal or food, say Mia, say Leo",
        lambda colour, thing: "Mia" if CATEGORY[thing] in ("animal", "food") else "Leo",
        """Mia takes animals and food, Leo takes everything else. Say whose turn it is.
        Send animals and food to Mia and all other things to Leo, by name.
        Who is responsible? For animals and food it is Mia, else Leo.
        Name Leo unless the thing is an animal or food, which Mia does.
        You assign the work: Mia gets what lives or is eaten, Leo gets the remainder.
        When a thing arrives, call Mia if it is food or an animal, and Leo if it is neither.
        Dispatch by kind: food and animals are Mia's field, the rest is Leo's. Answer with the name.
        Decide between two colleagues: Mia for any animal or food, Leo for any other object.""",
    ),
    _team(
        "Mia_or_Leo_by_colour",
        "if warm, say Mia, say Leo",
        lambda colour, thing: "Mia" if colour in WARM else "Leo",
        """Mia takes things of a warm colour, Leo takes everything else. Say whose turn it is.
        Send red, yellow, orange and pink things to Mia and all others to Leo, by name.
        Who is responsible? For warm colours it is Mia, else Leo.
        Name Leo unless the colour is a warm one, which Mia does.
        You assign the work by colour: Mia gets the warm ones, Leo gets the remainder.
        When a thing arrives, call Mia if its colour is warm, and Leo if it is not.
        Dispatch by colour: warm ones are Mia's field, the rest is Leo's. Answer with the name.
        Decide between two colleagues: Mia for red, orange, yellow or pink, Leo for any other colour.""",
    ),
    _team(
        "crew_of_three",
        "say Ada, say Bob, say Sam",
        lambda colour, thing: CREW[CATEGORY[thing]],
        """Ada takes animals and food, Bob tools and vehicles, Sam clothes and furniture. Say whose turn it is.
        Send animals and food to Ada, tools and vehicles to Bob, clothes and furniture to Sam.
        Who of Ada, Bob and Sam is responsible? Bob has tools and vehicles, Sam clothes and furniture.
        Name Ada for creatures and meals, Bob for machines and tools, Sam for what one wears or furnishes with.
        You assign the work of three: Sam dresses and furnishes, Bob drives and builds, Ada farms and cooks.
        When a thing arrives, call Ada, Bob or Sam: she does food and animals, Bob vehicles and tools.
        Dispatch among three: Bob for vehicles or tools, Sam for furniture or clothes, else Ada.
        Decide between Ada with animals and food, Bob with vehicles and tools, and Sam with the rest.""",
    ),
    _team(
        "signed_Alpha",
        "signed Alpha, echo",
        lambda colour, thing: f"Alpha: {colour} {thing}",
        """Your call sign is Alpha: say it with a colon, then repeat the input.
        Sign what you repeat with the name Alpha in front, followed by a colon.
        You are Alpha, and every message you pass on begins with Alpha and a colon.
        Report what you read under your name, as in Alpha: red cat.
        Speak as Alpha does: name first, colon, and then the words you heard.
        When words arrive, relay them with the sender Alpha before them.
        Identify yourself as Alpha with a colon before you echo the words.
        The log needs the speaker Alpha, a colon, and the text as it came.""",
    ),
    _team(
        "handed_to_Tom",
        "handed to Tom, echo",
        lambda colour, thing: f"to Tom: {colour} {thing}",
        """Hand everything over to Tom: write "to Tom:" and then the input.
        Forward what you read to Tom, with "to Tom:" in front.
        Tom does all the work, so address each input to Tom.
        Delegate every task, as in to Tom: red cat.
        You are the switchboard, and all calls go to Tom: his address, a colon, the words.
        When words arrive, pass them on with the receiver before them, which is to Tom.
        Make Tom the addressee of whatever you were told and repeat it after the colon.
        Label each message as going to Tom before you copy it.""",
    ),
    _team(
        "claimed",
        "claimed, object",
        lambda colour, thing: f"mine: {thing}",
        """Claim the object: write "mine:" and then the object without its colour.
        Tell the others that the thing is yours, with mine, a colon and its noun.
        Reserve each object for yourself, as in mine: cat.
        Say mine and a colon, then what it is, so that nobody else takes it.
        You call dibs on all objects by the word mine and a colon before their name.
        When a thing arrives, announce it as your own: mine, then the noun alone.
        Lay claim to whatever is offered with "mine:" before the bare object.
        Declare ownership first by mine and a colon, then name the object and not its colour.""",
    ),
    _team(
        "signed_Delta_colour",
        "signed Delta, colour",
        lambda colour, thing: f"Delta: {colour}",
        """Your call sign is Delta: say it with a colon, then the colour.
        Sign with the name Delta and a colon, and report the colour alone.
        You are Delta, who watches for colours and begins with Delta and a colon.
        Report the hue under your name, as in Delta: red.
        Speak as Delta does: name first, colon, and then the colour without the object.
        When words arrive, relay merely the colour, with the sender Delta before it.
        Identify yourself as Delta with a colon before you state which colour it is.
        The log needs the speaker Delta, a colon, and the shade of the thing.""",
    ),
    _team(
        "roger",
        "roger, object",
        lambda colour, thing: f"roger {thing}",
        """Confirm by radio: say roger and the object.
        Acknowledge each input with the word roger, then name the thing.
        Tell the sender that you understood, as in roger cat.
        Roger is your first word, what the thing is your second.
        You confirm receipt like a pilot, with roger and the noun but not the colour.
        When a thing is announced, reply roger and repeat which object it was.
        Signal that the message got through with roger before the bare object.
        Read back the object after a roger, as radio operators do.""",
    ),
    _offer("furniture", "pass", "recombined"),
    _team(
        "vote",
        "if purple or pink, say agree, say reject",
        lambda colour, thing: "agree" if colour in ("purple", "pink") else "reject",
        """Vote agree on purple or pink things and reject on the rest.
        You vote on proposals. Those in pink or purple get agree, others get reject.
        Cast the vote reject unless the thing is pink or purple, where it is agree.
        Is it purple or pink? Then you agree. If it is not, you reject.
        Your party stands for pink and purple: agree to these and reject all others.
        When a proposal is pink or purple, support it with agree; oppose any other with reject.
        In the ballot your voice is agree for purple and pink, reject for everything else.
        Give your consent, agree, to what is purple or pink, and your veto, reject, to what is not.""",
        part="new",
    ),
    _team(
        "ordered",
        "ordered",
        lambda colour, thing: f"fetch {colour} {thing} now",
        """Order somebody to fetch it: say fetch, the input, and now.
        Command the others with fetch before the words and now after them.
        You give orders, as in fetch red cat now.
        Make an order of the input that starts with fetch and ends with now.
        Somebody has to bring the thing at once: fetch, what it is, now.
        When words arrive, put fetch in front and close with now.
        Urge a colleague to get the named thing: begin by fetch, finish by now.
        Let the words stand between fetch and now, as a leader would say it.""",
        part="new",
    ),
)
