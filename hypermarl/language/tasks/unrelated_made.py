"""More of what has nothing to do with any role, made of parts.

A penalty on a few dozen prompts is learned by heart, and adapters that leave those alone need not leave others alone.
Prompts of tests are not among them.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from hypermarl.language.task import Example

_DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
_MONTHS = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
]
_NUMBERS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
_CAPITALS = {
    "France": "Paris",
    "Spain": "Madrid",
    "Japan": "Tokyo",
    "China": "Beijing",
    "Norway": "Oslo",
    "Sweden": "Stockholm",
    "Portugal": "Lisbon",
    "Austria": "Vienna",
    "Poland": "Warsaw",
    "Hungary": "Budapest",
    "Cuba": "Havana",
    "Peru": "Lima",
    "Kenya": "Nairobi",
    "England": "London",
    "Scotland": "Edinburgh",
    "Iran": "Tehran",
    "Iraq": "Baghdad",
    "Belgium": "Brussels",
    "Denmark": "Copenhagen",
    "Ukraine": "Kiev",
    "India": "Delhi",
    "Argentina": "Buenos",
}
_OPPOSITES = (
    "up down|left right|big small|old young|rich poor|early late|open closed|full empty|day night|love hate|"
    "true false|happy sad|high low|strong weak|near far|first last|good bad|long short|before after|"
    "inside outside|war peace|buy sell|push pull|start stop|thick thin|deep shallow|heavy light|clean dirty|"
    "brave afraid|give take"
)
_BEGINNINGS = (
    "Once upon a|time;Ladies and|gentlemen;Thank you very|much;Happy|birthday;Merry|Christmas;Good|morning;"
    "Rock and|roll;Trial and|error;Supply and|demand;Law and|order;Cause and|effect;"
    "Hide and|seek;Isaac|Newton;Albert|Einstein;Abraham|Lincoln;Marie|Curie;William|Shakespeare;"
    "Leonardo da|Vinci;George|Washington;New|York;Los|Angeles;San|Francisco;The Statue of|Liberty;"
    "The Eiffel|Tower;The Pacific|Ocean;The Roman|Empire;The Milky|Way;World War|II;The North|Pole;"
    "Global|warming;Artificial|intelligence;The speed of|light;Ice|cream;At the end of the|day;"
    "On the other|hand;For the first|time;As soon as|possible;In the middle of|the;A long time|ago;"
    "The sun rises in the|east;Practice makes|perfect;Time is|money;Easier said than|done;"
    "Actions speak louder than|words;Two heads are better than|one"
)
_IS = {  # what each is, of the properties asked about; all else is answered No
    "fire": "hot",
    "the ocean": "wet large",
    "a mountain": "large",
    "a feather": "soft",
    "a diamond": "hard",
    "honey": "sweet",
    "a whisper": "quiet",
    "thunder": "loud",
    "a second": "short",
    "a century": "long",
    "the Moon": "large",
    "an atom": "small",
    "a library": "quiet",
    "lava": "hot",
    "a pillow": "soft",
    "a glacier": "cold large",
}
_PROPERTIES = ["hot", "cold", "wet", "soft", "hard", "sweet", "loud", "large", "small", "alive"]
_WHO = ["rocks", "rivers", "numbers", "letters", "windows", "shadows", "computers", "teachers", "doctors", "children"]
_PEOPLE = ["teachers", "doctors", "children"]
_DO = ["sing", "think", "sleep", "swim", "laugh", "write", "walk"]


def _made() -> Iterator[tuple[str, str]]:
    for number, other in product(range(1, 21), range(6)):
        yield f"What is {number} plus {other}?", str(number + other)
        if number >= other:
            yield f"What is {number} minus {other}?", str(number - other)
        if 0 < other < 4:
            yield f"What is {number} times {other}?", str(number * other)
            yield f"What is {number * other} divided by {other}?", str(number)
    for names, what in ((_DAYS, "day"), (_MONTHS, "month")):
        for i, name in enumerate(names):
            for word, step in (("before", -1), ("after", 1)):
                other_name = names[(i + step) % len(names)]
                yield f"The {what} {word} {name} is", other_name
                yield f"Which {what} comes {word} {name}?", other_name
    for i in range(len(_NUMBERS) - 3):
        yield f"Count on: {', '.join(_NUMBERS[i : i + 3])},", _NUMBERS[i + 3]
    for i in range(23):
        yield f"{chr(65 + i)}, {chr(66 + i)}, {chr(67 + i)},", chr(68 + i)
    for country, capital in _CAPITALS.items():
        yield f"The capital of {country} is", capital
        yield f"What is the capital of {country}?", capital
    for (country, capital), other_country in zip(
        _CAPITALS.items(), [*list(_CAPITALS)[5:], *list(_CAPITALS)[:5]], strict=True
    ):
        yield f"Yes or no: is {capital} in {other_country}?", "No"
        yield f"Yes or no: is {capital} in {country}?", "Yes"
        yield f"Yes or no: is {country} a planet?", "No"
        yield f"Yes or no: is {capital} a language?", "No"
    for pair in _OPPOSITES.split("|"):
        word, opposite = pair.split()
        yield f"The opposite of {word} is", opposite
        yield f"What is the opposite of {opposite}?", word
    for line in _BEGINNINGS.split(";"):
        beginning, end = line.split("|")
        yield beginning, end
    for (thing, true), quality in product(_IS.items(), _PROPERTIES):
        yield f"Yes or no: is {thing} {quality}?", "Yes" if quality in true.split() else "No"
    for who, verb in product(_WHO, _DO):
        yield f"Yes or no: can {who} {verb}?", "Yes" if who in _PEOPLE else "No"


def made(apart: tuple[Example, ...]) -> tuple[Example, ...]:
    """All of them whose prompts are not those of `apart`."""
    known = {example.prompt for example in apart}
    return tuple(Example(prompt, answer) for prompt, answer in dict(_made()).items() if prompt not in known)
