"""What the games in words are made of: words to say, ways to ask for one, and people to be."""

from __future__ import annotations

# Common nouns, each one token with a space before it in SmolLM2's vocabulary, so that one forward pass decides.
_NOUNS = """
    apple river stone cloud tiger bread chair horse music paper ocean mountain forest garden window bridge
    castle lion eagle wolf bear fox rabbit snake fish bird dog cat cow sheep goat mouse
    table door clock lamp book letter pencil glass cup plate knife spoon salt sugar milk honey
    butter cheese rice corn bean tomato potato onion lemon cherry island desert valley lake beach train
"""
WORDS: tuple[str, ...] = tuple(_NOUNS.split())

COLOURS: tuple[str, ...] = ("red", "blue", "green", "yellow", "black", "white", "brown", "orange")

# Ways to ask for a word: those trained on, and those kept for tests.
ASKING: dict[str, tuple[str, ...]] = {
    "train": (
        "Choose a word.",
        "Pick one word.",
        "Say a word now.",
        "Which word do you take?",
        "Name your word.",
        "Your word, please.",
        "Give one word.",
        "It is your turn to say a word.",
    ),
    "test": (
        "Select a word.",
        "Tell us your word.",
        "What is your word?",
        "Please name a word.",
        "State one word.",
        "Time to settle on a word.",
        "Answer with a word.",
        "Decide on a word.",
    ),
}

# What the scout reads of the colour it sees, and the porter of the word it hears.
SEEING: dict[str, tuple[tuple[str, str], ...]] = {
    "train": (
        ("You see {}. Signal:", "The signal is {}. Colour:"),
        ("It is {}. Say a word.", "You hear {}. Name the colour."),
        ("The flag is {}. Which word do you call?", "The scout calls {}. Which colour do you fetch?"),
        ("Ahead lies {}. Give a signal.", "The word was {}. Give a colour."),
    ),
    "test": (
        ("There is {} ahead. Pick a word.", "The scout said {}. Pick a colour."),
        ("The colour is {}. Tell the porter:", "You were told {}. Fetch:"),
        ("You spot {}. Send a word.", "The message reads {}. Choose a colour."),
        ("Today it is {}. Your signal, please.", "Today you hear {}. Your colour, please."),
    ),
}

# Each is one agent; the first N of them make a game of N.
ROLES: dict[str, str] = {
    "auditor": "You are the auditor; you check accounts and look for errors.",
    "clerk": "You are the clerk; you file papers and keep the records in order.",
    "lawyer": "You are the lawyer; you read contracts and argue in court.",
    "cook": "You are the cook; you prepare hot meals for a crowded kitchen.",
    "farmer": "You are the farmer; you plough the fields and bring in the harvest.",
    "doctor": "You are the doctor; you examine patients and prescribe medicine.",
    "pilot": "You are the pilot; you fly passengers safely across the sky.",
    "teacher": "You are the teacher; you explain lessons to a class of children.",
    "baker": "You are the baker; you rise before dawn and knead fresh dough.",
    "sailor": "You are the sailor; you hoist sails and watch the tide.",
    "painter": "You are the painter; you mix pigments and brush them on canvas.",
    "miner": "You are the miner; you dig for ore deep below the ground.",
    "judge": "You are the judge; you hear both sides and pronounce a sentence.",
    "nurse": "You are the nurse; you dress wounds and comfort the sick.",
    "tailor": "You are the tailor; you measure cloth and sew elegant suits.",
    "carpenter": "You are the carpenter; you saw planks and join them into furniture.",
    "librarian": "You are the librarian; you shelve novels and ask readers for silence.",
    "plumber": "You are the plumber; you mend leaking pipes and blocked drains.",
    "gardener": "You are the gardener; you prune roses and water young plants.",
    "astronomer": "You are the astronomer; you point a telescope at distant galaxies.",
    "butcher": "You are the butcher; you cut meat and weigh it for customers.",
    "singer": "You are the singer; you perform songs on a lit stage.",
    "soldier": "You are the soldier; you stand guard and obey the captain.",
    "mechanic": "You are the mechanic; you repair engines and change worn tyres.",
    "chemist": "You are the chemist; you heat solutions and note how they react.",
    "postman": "You are the postman; you carry parcels from house to house.",
    "barber": "You are the barber; you trim beards and cut hair all day.",
    "fisherman": "You are the fisherman; you cast nets from a small wooden vessel.",
    "architect": "You are the architect; you draw plans for tall new buildings.",
    "dentist": "You are the dentist; you drill and fill aching teeth.",
    "detective": "You are the detective; you gather clues and question suspects.",
    "banker": "You are the banker; you lend money and count the interest.",
    "weaver": "You are the weaver; you work threads on a loom into carpets.",
    "blacksmith": "You are the blacksmith; you hammer glowing iron on an anvil.",
    "shepherd": "You are the shepherd; you lead the flock to better pasture.",
    "waiter": "You are the waiter; you take orders and carry trays to guests.",
    "firefighter": "You are the firefighter; you climb ladders and put out flames.",
    "journalist": "You are the journalist; you interview witnesses and write the news.",
    "translator": "You are the translator; you turn foreign speech into your own tongue.",
    "surveyor": "You are the surveyor; you measure land and draw its borders.",
    "jeweller": "You are the jeweller; you set bright gems into rings.",
    "potter": "You are the potter; you shape wet clay upon a wheel.",
    "electrician": "You are the electrician; you lay cables and replace broken fuses.",
    "beekeeper": "You are the beekeeper; you tend the hives and calm the swarm.",
    "historian": "You are the historian; you study old archives and vanished empires.",
    "violinist": "You are the violinist; you tune four strings and play in an orchestra.",
    "diver": "You are the diver; you search sunken wrecks under the waves.",
    "jockey": "You are the jockey; you ride fast races around the track.",
    "locksmith": "You are the locksmith; you cut keys and open jammed locks.",
    "geologist": "You are the geologist; you collect rocks and read their layers.",
    "magician": "You are the magician; you hide coins and astonish the audience.",
    "optician": "You are the optician; you test eyesight and fit spectacles.",
    "ranger": "You are the ranger; you patrol the woods and protect wild animals.",
    "printer": "You are the printer; you ink the press and bind pamphlets.",
    "cobbler": "You are the cobbler; you stitch soles onto worn old boots.",
    "referee": "You are the referee; you blow a whistle and punish fouls.",
    "economist": "You are the economist; you forecast prices, wages and unemployment.",
    "botanist": "You are the botanist; you press leaves and name new species.",
    "roofer": "You are the roofer; you nail slates high above the street.",
    "diplomat": "You are the diplomat; you negotiate treaties between rival nations.",
    "glazier": "You are the glazier; you cut panes and putty them into frames.",
    "umpire": "You are the umpire; you call the score from a high seat.",
    "poet": "You are the poet; you weigh each line and its rhyme.",
    "mason": "You are the mason; you lay bricks and spread mortar between them.",
}

RELAY_ROLES: dict[str, str] = {
    "scout": "You are the scout; you see the colour and tell the porter by one word.",
    "porter": "You are the porter; you hear the scout's word and fetch the right colour.",
}
