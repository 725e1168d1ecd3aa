"""Policies with a condition: one word for things of a category, another for all else.

Which two words a policy names is easily read; which of them its condition selects takes binding, which pooled text
codes blur. Roles are all combinations of a category and an ordered pair of action words. A third of the combinations
is never trained, in neither order of the two words, though its category and its pair are, each with others.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from hypermarl.errors import UserError
from hypermarl.language.task import Example, Part, Role, Task
from hypermarl.language.tasks.conditional_wordings import compose

# one token each, with a space before and without, and in no wording below
ACTIONS = ("keep", "drop", "open", "close", "send", "hold", "buy", "sell", "push", "pull", "wait", "move")

# Nothing here is in two categories, as people use the words; most are single tokens of usual vocabularies.
MEMBERS: dict[str, str] = {
    "fruit": (
        "apple banana cherry grape lemon mango peach pear plum strawberry pineapple papaya watermelon fig "
        "apricot raspberry blueberry blackberry guava nectarine cranberry melon coconut tangerine"
    ),
    "bird": (
        "eagle sparrow owl crow parrot pigeon hawk penguin duck goose falcon chicken swan ostrich raven robin "
        "seagull flamingo peacock woodpecker vulture pelican stork canary"
    ),
    "metal": (
        "iron copper gold silver zinc aluminium nickel titanium steel bronze brass platinum tungsten chromium "
        "tin cobalt magnesium lithium palladium uranium manganese cadmium sodium calcium"
    ),
    "country": (
        "France Germany Japan Brazil Canada India China Egypt Spain Italy Mexico Kenya Norway Sweden Poland "
        "Greece Portugal Russia Vietnam Thailand Argentina Peru Nigeria Ireland"
    ),
    "vehicle": (
        "car truck bus train bicycle motorcycle boat ship airplane helicopter tractor van taxi ferry "
        "ambulance tram scooter yacht canoe jeep lorry minivan limousine submarine"
    ),
    "garment": (
        "shirt dress jacket coat hat skirt glove sock trousers jeans pants vest sweater scarf blouse cardigan "
        "hoodie pyjamas shorts tights cloak apron tunic raincoat"
    ),
    "drink": (
        "coffee tea milk juice beer wine water lemonade soda whiskey cocoa rum cider vodka gin champagne "
        "brandy espresso cappuccino tequila bourbon latte ale sherry"
    ),
    "insect": (
        "ant bee beetle butterfly mosquito moth wasp termite cockroach flea locust grasshopper ladybug "
        "dragonfly hornet aphid mantis caterpillar firefly bumblebee gnat weevil mayfly earwig"
    ),
    "vegetable": (
        "carrot onion potato cabbage spinach broccoli lettuce celery garlic cucumber kale cauliflower "
        "asparagus pea radish turnip leek zucchini eggplant beetroot parsnip yam artichoke okra"
    ),
    "mammal": (
        "dog cat horse tiger lion elephant rabbit wolf monkey sheep goat deer fox cow bear mouse giraffe "
        "zebra donkey camel squirrel leopard hamster kangaroo"
    ),
    "fish": (
        "salmon tuna trout cod shark herring carp mackerel eel catfish goldfish perch sardine haddock halibut "
        "anchovy piranha sturgeon flounder stingray barracuda minnow swordfish tilapia"
    ),
    "tree": (
        "oak pine maple birch willow cedar elm spruce cypress fir eucalyptus poplar redwood aspen sequoia "
        "beech sycamore magnolia acacia alder larch juniper baobab mahogany"
    ),
    "colour": (
        "red blue green yellow purple pink brown black white grey scarlet turquoise indigo crimson violet "
        "magenta beige maroon cyan azure mauve ochre vermilion khaki"
    ),
    "city": (
        "London Paris Tokyo Berlin Rome Madrid Chicago Boston Moscow Dublin Vienna Cairo Toronto Sydney "
        "Seattle Houston Mumbai Beijing Prague Athens Lisbon Amsterdam Warsaw Bangkok"
    ),
    "sport": (
        "football tennis basketball baseball golf hockey soccer rugby swimming boxing volleyball cycling "
        "skiing wrestling badminton gymnastics rowing judo karate archery fencing surfing handball "
        "snowboarding"
    ),
}
PLURALS = {"fish": "fish", "country": "countries", "city": "cities"}  # of the others, with an s

HELD_OUT = 6  # words of every category that only tests ask for
COMPOSED = 1000  # wordings of a policy at most
OF_THREE = 3  # one of so many combinations is never trained

# {one} "a fruit", {kind} "fruit", {many} "fruits", {Many} "Fruits"; {a} if it is one, {b} if not. Several put b first.
WORDINGS = (
    "If the thing is {one}, say {a}; otherwise say {b}.",
    "Say {b} unless it is {one}; in that case say {a}.",
    "Answer {a} for every {kind} and {b} for all else.",
    "{Many} get the word {a}. Anything else gets the word {b}.",
    "Your usual reply is {b}. Only when you are shown {one} do you reply {a}.",
    "Is it {one}? Yes: {a}. No: {b}.",
    "When what you read does not name {one}, write {b}; when it does, write {a}.",
    "You sort words into two boxes. {Many} belong in the box {a}, the rest in the box {b}.",
    "Rule: {kind} -> {a}, not {kind} -> {b}",
    "Respond with {a} whenever somebody mentions {one}, and with {b} in every other case.",
    "You know two words, {b} and {a}: the latter is for {many}, the former for things of any other sort.",
    "I want to hear {a} from you about {many}. About other things I want to hear {b}.",
    "Things other than {many} are to be answered with {b}, {many} themselves with {a}.",
    "In general you say {b}, but {many} are the exception and need {a}.",
)
UNSEEN = (
    "Check whether the word stands for {one} and reply {a} if so, {b} if not.",
    "The answer to all objects is {b}, except that it is {a} for {many}.",
    "The word {a} marks {many}; the word {b} marks whatever falls outside that group.",
    "Told of something that isn't {one}? Then {b}. Told of {one}? Then {a}.",
)


@dataclass(frozen=True, slots=True)
class Policy:
    """Say `then` of members of `category`, `other` of members of any other."""

    category: str
    then: str
    other: str

    @property
    def name(self) -> str:
        return f"{self.category}/{self.then}/{self.other}"

    @property
    def words(self) -> dict[str, str]:
        """What a wording has in its gaps."""
        one = f"{'an' if self.category[0] in 'aeiou' else 'a'} {self.category}"
        many = PLURALS.get(self.category, f"{self.category}s")
        sorts = {"kind": self.category, "one": one, "One": one.capitalize(), "many": many, "Many": many.capitalize()}
        return {**sorts, "a": self.then, "b": self.other}

    def role(self, part: Part, composed: int = 0) -> Role:
        """In the wordings above or, if so many are to be `composed`, in those of its own."""
        words = self.words
        said, unseen = (tuple(text.format(**words) for text in texts) for texts in (WORDINGS, UNSEEN))
        if composed:
            rng = random.Random(f"conditional wordings {self.name}")
            found: dict[str, None] = {}
            while len(found) < composed:
                found[compose(rng, **words)] = None
            said = tuple(found)
        return Role(self.name, self.category, said, unseen, part)


def make(categories: int = 15, pairs: int = 132, wordings: int = 0, seed: int = 0) -> Task:
    """`categories * pairs` policies, a third of them never trained; fewer of either make a smaller task.

    All are described in the same fourteen wordings or, if `wordings` are asked for, each in so many of its own, put
    together from phrases: who does what is then to be read in sentences of any kind.

    Fewer are not easier: a generator that learned 300 of 450 policies knew two thirds of those and none of the others,
    of 1,320 of 1,980 as many as it is asked for (experiments/LOG.md).

    Pairs come in both orders, over `pairs / 2` action words but 12 at most, so that every word has at least two
    partners on either side. `seed` chooses which combinations are never trained and which words are kept for tests.
    A role's family is its category.
    """
    most = len(ACTIONS) * (len(ACTIONS) - 1)
    if not 2 <= categories <= len(MEMBERS):
        raise UserError(f"The task conditional has 2 to {len(MEMBERS)} categories, not {categories}.")
    if not 0 <= wordings <= COMPOSED or wordings == 1:
        raise UserError(f"A policy has 2 to {COMPOSED} composed wordings, or 0 for the fourteen, not {wordings}.")
    if not 6 <= pairs <= most:
        raise UserError(f"The task conditional has 6 to {most} pairs of words, not {pairs}.")
    rng = random.Random(f"conditional {seed}")
    members = {name: MEMBERS[name].split() for name in list(MEMBERS)[:categories]}
    for words in members.values():
        rng.shuffle(words)
    asked = {name: (words[HELD_OUT:], words[:HELD_OUT]) for name, words in members.items()}
    policies = _combinations(list(members), word_pairs(pairs), rng)
    named = {policy.name: policy for policy in policies}

    def draw(role: Role, rng: random.Random, test: bool) -> Example:
        policy = named[role.name]
        member = rng.random() < 0.5
        category = policy.category if member else rng.choice([name for name in asked if name != policy.category])
        word = rng.choice(asked[category][test])
        return Example(word, policy.then if member else policy.other, (policy.then, policy.other))

    return Task("conditional", tuple(policy.role(part, wordings) for policy, part in policies.items()), draw)


def word_pairs(count: int) -> list[tuple[str, str]]:
    """Ordered pairs of action words, each followed by its reverse: neighbours in a ring, then those farther apart."""
    words = ACTIONS[: (count + 1) // 2]
    size = len(words)
    near = [(i, (i + step) % size) for step in range(1, size // 2 + 1) for i in range(size)]
    once = {frozenset(pair): pair for pair in near}.values()  # opposite in the ring, a pair was found from either side
    return [pair for i, j in once for pair in ((words[i], words[j]), (words[j], words[i]))][:count]


def _combinations(categories: list[str], pairs: list[tuple[str, str]], rng: random.Random) -> dict[Policy, Part]:
    """Every category and every two words are left out equally often, in a random order, and these in both orders: were
    one order trained, each category could have its own order of words, which says nothing of conditions and would be
    the more wrong the better it is learned."""
    together = list(dict.fromkeys(frozenset(pair) for pair in pairs))
    rows, columns = rng.sample(range(len(categories)), len(categories)), rng.sample(range(len(together)), len(together))
    column_of = dict(zip(together, columns, strict=True))
    return {
        Policy(category, *pair): "trained" if (row + column_of[frozenset(pair)]) % OF_THREE else "recombined"
        for category, row in zip(categories, rows, strict=True)
        for pair in pairs
    }
