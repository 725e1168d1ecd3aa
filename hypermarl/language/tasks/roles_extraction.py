"""Roles that answer with one fact of the input, plain or in a shape that a format has."""

from __future__ import annotations

from functools import partial

from hypermarl.language.tasks.inputs import CATEGORY, warmth
from hypermarl.language.tasks.roles_definition import Definition, define

PLACES = {
    "animal": "farm",
    "food": "kitchen",
    "tool": "workshop",
    "clothing": "closet",
    "vehicle": "road",
    "furniture": "house",
}
TRADES = {
    "animal": "farmer",
    "food": "cook",
    "tool": "builder",
    "clothing": "tailor",
    "vehicle": "driver",
    "furniture": "carpenter",
}

_extract = partial(define, "extraction")


def _is(category: str, thing: str) -> str:
    return "yes" if CATEGORY[thing] == category else "no"


ROLES: tuple[Definition, ...] = (
    _extract(
        "colour",
        "colour",
        lambda colour, thing: colour,
        """Answer with only the colour of the thing.
        Name the colour of the thing and nothing else.
        Which colour does it have? Say just that word.
        Of the input, keep the colour and drop the object.
        Tell us how the thing is painted, in a single word such as red.
        When you read about a thing, report merely its hue.
        Only the colour word of the input is of interest.
        Pick out the shade that is mentioned and ignore the object.""",
    ),
    _extract(
        "object",
        "object",
        lambda colour, thing: thing,
        """Answer with only the object, the noun.
        Name the thing itself, without its colour.
        What is it? Say just the noun.
        Of the input, keep the object and drop the colour.
        Tell us which thing is meant, in a single word such as cat.
        When you read about a coloured thing, report merely what it is.
        Only the noun of the input is of interest.
        Pick out the object that is mentioned and ignore its shade.""",
    ),
    _extract(
        "category",
        "category",
        lambda colour, thing: CATEGORY[thing],
        """Say what kind of thing it is: animal, food, tool, clothing, vehicle or furniture.
        Name the category of the object.
        Classify the object, choosing among animal, food, tool, clothing, vehicle and furniture.
        Which class does the thing belong to? Answer with the name of the class.
        Replace the object by its general term, so that a cat becomes animal.
        When you read about a thing, give the group it falls into.
        Label each input with the type of its object.
        Find the broader concept that covers the object, for instance food or vehicle.""",
    ),
    _extract(
        "place",
        "place",
        lambda colour, thing: PLACES[CATEGORY[thing]],
        """Say where the thing is found: farm, kitchen, workshop, closet, road or house.
        Name the place where such an object belongs.
        Where would one look for it? Answer with the place.
        Map the object to its usual location, for instance a cat to the farm.
        Choose among farm, kitchen, workshop, closet, road and house the one that fits the object.
        When you read about a thing, tell us its home.
        Locate the object: the typical surroundings are your answer.
        Give the spot at which people expect to come across the thing.""",
    ),
    _extract(
        "alive",
        "alive",
        lambda colour, thing: "living" if CATEGORY[thing] == "animal" else "dead",
        """Say living if the thing is alive and dead if it is not.
        Does it breathe? Then it is living, if not it is dead.
        Judge whether the object is a living being: living or dead.
        Creatures are living, mere objects are dead. Answer with one of these words.
        Decide for each thing between living and dead matter.
        When you read about a thing, tell us whether there is life in it: living or dead.
        Sort the inputs by life: living for creatures, dead for other things.
        State if the object lives, with living, or does not, with dead.""",
    ),
    _extract(
        "edible",
        "edible",
        lambda colour, thing: _is("food", thing),
        """Can it be eaten? Answer yes or no.
        Say yes if the thing is something people eat, and no otherwise.
        Judge whether the object is food: yes or no.
        Would you find it on a plate as a dish? Reply with yes or no.
        Confirm what is fit for a meal with yes and deny the rest with no.
        When you read about a thing, tell us by yes or no if it is edible.
        Is this something to eat? A plain yes or no will do.
        State by yes or no if the object is a kind of food.""",
    ),
    _extract(
        "warmth",
        "warmth",
        lambda colour, thing: warmth(colour),
        """Say whether its colour is warm, cool or neutral.
        Judge the temperature of the colour: warm, cool or neutral.
        Red and yellow are warm, blue and green are cool, black and white are neutral. Classify the colour.
        Which sort of colour is it for a painter? Answer warm, cool or neutral.
        Look at the colour alone and call it warm, cool or neutral.
        When you read a colour, tell us its warmth in one word.
        Rate the hue as painters do, as neutral, cool or warm.
        Does the shade feel warm, cool or neither, that is, neutral? Say which.""",
    ),
    _extract(
        "object_in_brackets",
        "object, brackets",
        lambda colour, thing: f"[{thing}]",
        """Answer with the object only, in square brackets.
        Name the thing without its colour, between [ and ].
        Drop the colour and put what remains in square brackets.
        What is it? Give the noun enclosed by square brackets, as in [cat].
        Keep nothing of the input but the object, with a square bracket on either side.
        When you read about a coloured thing, box its noun in with [ and ].
        The object alone, surrounded by square brackets, is wanted.
        Pick out the noun and enclose it in square brackets.""",
    ),
    _extract(
        "colour_in_quotes",
        "colour, quotes",
        lambda colour, thing: f'"{colour}"',
        """Answer with the colour only, in quotation marks.
        Name the colour without the object, between double quotes.
        Drop the object and put what remains in quotation marks.
        Which colour does it have? Quote that word, as in "red".
        Keep nothing of the input but the colour, with a quotation mark on either side.
        When you read about a thing, cite its colour in double quotes.
        The colour alone, surrounded by quotation marks, is wanted.
        Pick out the shade and quote it with double quotes.""",
    ),
    _extract(
        "object_as_json",
        "object, json",
        lambda colour, thing: f'{{"object":"{thing}"}}',
        """Answer with the object only, as JSON with the key object.
        Give a JSON record that holds the object but not the colour.
        Drop the colour and turn what remains into JSON under the name object.
        What is it? Tell a program by JSON, with object as the one field.
        Store the thing alone as {"object":...} in a single line.
        When you read about a coloured thing, serialise just its noun as JSON.
        A JSON dictionary whose only entry is object is wanted.
        Pick out the noun and express it as JSON with one key.""",
    ),
    _extract(
        "colour_keyed",
        "colour, keyed",
        lambda colour, thing: f"colour={colour}",
        """Write colour= and then the colour, without the object.
        Give the colour alone as a setting with an equals sign.
        Drop the object and assign what remains to colour, as in colour=red.
        Which colour does it have? Answer as key=value, the key being colour.
        Keep nothing of the input but the colour, preceded by the word colour and an equals sign.
        When you read about a thing, set the parameter colour to its hue.
        One assignment, of the hue to the field colour, is wanted.
        Pick out the shade and put colour= before it.""",
    ),
    _extract(
        "the_category",
        "category, the",
        lambda colour, thing: f"the {CATEGORY[thing]}",
        """Say what kind of thing it is, with the article "the" in front.
        Name the category of the object after the word the.
        Speak of the object by its class and the definite article, so that a cat is "the animal".
        Begin with "the" and go on with the class of the object.
        Replace the whole input by the general term and its definite article.
        When you read about a thing, refer to it as the animal, the tool and so on.
        The definite article and the type of the object are wanted.
        Put "the" before the broader concept that covers the object.""",
    ),
    _extract(
        "filed",
        "category, object, slash",
        lambda colour, thing: f"{CATEGORY[thing]}/{thing}",
        """Write the category of the object, a slash, and the object.
        File each thing under its kind, as in animal/cat.
        Give a path whose folder is the class and whose file is the object.
        First what kind of thing it is, then / and the thing itself.
        Drop the colour and put the object behind its category and a slash.
        When you read about a thing, sort it into the folder of its type, divided by a slash.
        A path of two steps, the type and then the object, is wanted.
        Place the general term before the noun, with a slash between them.""",
    ),
    _extract(
        "colour_in_brackets",
        "colour, brackets",
        lambda colour, thing: f"[{colour}]",
        """Answer with the colour only, in square brackets.
        Name the colour without the object, between [ and ].
        Drop the object and put what remains in square brackets.
        Which colour does it have? Give it enclosed by square brackets, as in [red].
        Keep nothing of the input but the colour, with a square bracket on either side.
        When you read about a thing, box its colour in with [ and ].
        The colour alone, surrounded by square brackets, is wanted.
        Pick out the shade and enclose it in square brackets.""",
        part="recombined",
    ),
    _extract(
        "category_in_quotes",
        "category, quotes",
        lambda colour, thing: f'"{CATEGORY[thing]}"',
        """Say what kind of thing it is, in quotation marks.
        Name the category of the object between double quotes.
        Classify the object and quote the name of its class, as in "animal".
        Which class does the thing belong to? Put the answer in quotation marks.
        Replace the input by its general term, with a quotation mark on either side.
        When you read about a thing, cite its group in double quotes.
        The type of the object, surrounded by quotation marks, is wanted.
        Find the broader concept that covers the object and quote it with double quotes.""",
        part="recombined",
    ),
    _extract(
        "trade",
        "trade",
        lambda colour, thing: TRADES[CATEGORY[thing]],
        """Say who deals with it at work: farmer, cook, builder, tailor, driver or carpenter.
        Name the trade that has to do with the object.
        Whose profession is about such things? Answer with the profession.
        Map the object to a craftsman, for instance a cat to the farmer.
        Choose among farmer, cook, builder, tailor, driver and carpenter the one that fits the object.
        When you read about a thing, tell us the expert for it.
        The occupation that the object reminds you of is wanted.
        Give the job of the person who handles such things every day.""",
        part="new",
    ),
)
