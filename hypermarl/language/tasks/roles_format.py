"""Roles that write the whole input in another shape."""

from __future__ import annotations

from functools import partial

from hypermarl.language.tasks.roles_definition import Definition, define

_format = partial(define, "format")

ROLES: tuple[Definition, ...] = (
    _format(
        "brackets",
        "brackets",
        lambda colour, thing: f"[{colour} {thing}]",
        """Put the input in square brackets.
        Write what you read between [ and ].
        An opening square bracket, the words, a closing square bracket: that is your answer.
        Whatever comes in goes out enclosed by square brackets.
        Surround the text on both sides with square brackets, as in [red cat].
        When you receive words, box them in with the signs [ and ].
        Square brackets belong around everything you repeat.
        Enclose the phrase you are given in a pair of square brackets.""",
    ),
    _format(
        "quotes",
        "quotes",
        lambda colour, thing: f'"{colour} {thing}"',
        """Put the input in quotation marks.
        Quote what you were told, with double quotes around it.
        Repeat the words as a quotation: a quotation mark first, another one last.
        Whatever comes in goes out between double quotes.
        Cite the text literally, quotation marks included, as in "red cat".
        When words reach you, set them inside quotation marks.
        Double quotes belong around everything you repeat.
        Treat the phrase as somebody's speech and wrap it in quotation marks.""",
    ),
    _format(
        "angles",
        "angles",
        lambda colour, thing: f"<{colour} {thing}>",
        """Put the input in angle brackets.
        Write what you read between < and >.
        Start with a less-than sign, repeat the words, finish with a greater-than sign.
        Whatever comes in goes out enclosed by pointed brackets.
        Surround the text on both sides with angle brackets, as in <red cat>.
        When you receive words, frame them with the signs < and >.
        Angle brackets belong around everything you repeat.
        Enclose the phrase you are given in a pair of pointed brackets, < and >.""",
    ),
    _format(
        "json",
        "json, colour, object",
        lambda colour, thing: f'{{"colour":"{colour}","object":"{thing}"}}',
        """Answer in JSON with the keys colour and object.
        Turn what you read into a JSON object that holds its colour and its object.
        Your output is parsed by a program, so give JSON: one key for the colour, one for the object.
        Convert every input to a JSON record of two fields, colour and object.
        Store the words as {"colour":...,"object":...} in a single line.
        When words arrive, serialise both of them as JSON under the names colour and object.
        Produce a valid JSON dictionary with the entries colour and object.
        Machines read you: express the colour and the object as JSON, with no spaces.""",
    ),
    _format(
        "keyed",
        "keyed, colour, object",
        lambda colour, thing: f"colour={colour} object={thing}",
        """Write colour= and the colour, then object= and the object.
        Give both words as settings with equals signs: colour=..., object=...
        Answer with two assignments, first of the colour and then of the object.
        Put the name of the field and an equals sign before each of the two words.
        Turn the input into parameters, as in colour=red object=cat.
        What you read becomes key=value pairs, one for colour and one for object.
        Assign the first word to colour and the second to object, using equals signs.
        List the fields colour and object, each followed by = and its value.""",
    ),
    _format(
        "slash",
        "slash",
        lambda colour, thing: f"{colour}/{thing}",
        """Join the two words with a slash.
        Replace the space between the words by a forward slash.
        Write the input like a path of files: first word, slash, second word.
        Make a path of what you read, as in red/cat.
        A slash goes between the words, and no spaces are left.
        When you get two words, separate them by / alone.
        Think of folders: the second word lies in the first, divided by a slash.
        Use the sign / instead of a blank to connect both words.""",
    ),
    _format(
        "hyphen",
        "hyphen",
        lambda colour, thing: f"{colour}-{thing}",
        """Join the two words with a hyphen.
        Replace the space between the words by a dash.
        Make one compound of the input by a hyphen in its middle.
        Write both words as a single hyphenated one, as in red-cat.
        A short dash goes between the words, and no spaces are left.
        When you get two words, tie them together with the sign -.
        Hyphenate the phrase that you are given.
        Use a dash instead of a blank to connect both words.""",
    ),
    _format(
        "arrow",
        "arrow",
        lambda colour, thing: f"{colour} -> {thing}",
        """Draw an arrow from the first word to the second.
        Write -> between the two words.
        Let the first word point to the second by an arrow.
        Present the input as a mapping, the first word leading to the second, as in red -> cat.
        An arrow made of - and > goes between the words.
        When you get two words, link them with a right arrow.
        Show a transition from one word to the other with the sign ->.
        Between both words belongs an arrow that points to the right.""",
    ),
    _format(
        "question",
        "question",
        lambda colour, thing: f"{colour} {thing}?",
        """Repeat the input with a question mark at the end.
        Ask back: say the same words as a question.
        Sound unsure, so close what you repeat with a question mark.
        Turn what you read into a question by adding ? to it.
        Echo the words in doubt, as in red cat?
        When words arrive, return them as if you were asking whether you heard right.
        Query the phrase: write it again and finish with the sign ?
        A question mark belongs after everything you repeat.""",
    ),
    _format(
        "exclaim",
        "exclaim",
        lambda colour, thing: f"{colour} {thing}!",
        """Repeat the input with an exclamation mark at the end.
        Shout the same words, with ! after them.
        Sound excited, so close what you repeat with an exclamation mark.
        Turn what you read into an exclamation by adding ! to it.
        Echo the words with enthusiasm, as in red cat!
        When words arrive, call them out and end on an exclamation mark.
        Cry the phrase aloud: write it again and finish with the sign !
        An exclamation mark belongs after everything you repeat.""",
    ),
    _format(
        "the",
        "the",
        lambda colour, thing: f"the {colour} {thing}",
        """Say the input with the article "the" in front.
        Begin with the word the, then repeat what you read.
        Use the definite article before the words you are given.
        Make a definite noun phrase of the input, as in the red cat.
        Your answer starts with "the" and goes on with the same words.
        When words arrive, speak of that very thing: put the before them.
        Prefix the phrase with its definite article.
        The word "the" belongs before everything you repeat.""",
    ),
    _format(
        "see",
        "see",
        lambda colour, thing: f"I see {'an' if colour == 'orange' else 'a'} {colour} {thing}.",
        """Say in a full sentence that you see it.
        Report what you are looking at, beginning with "I see".
        Tell us as an eye witness what is before you, in a sentence with a full stop.
        Make a sentence of the input, as in I see a red cat.
        Describe the sight in the first person: I see this or that.
        When words arrive, claim to see the thing they name, in one whole sentence.
        Speak as an observer who says "I see" and then what it is.
        State that the named thing is in your view, as a complete sentence starting with I.""",
    ),
    _format(
        "twice",
        "twice",
        lambda colour, thing: f"{colour} {thing} {colour} {thing}",
        """Repeat the whole input, twice in all.
        Say the same words two times in a row.
        Write what you read, and then write it once more.
        Double the text: it appears again after itself, as in red cat red cat.
        Your answer holds the whole input two times over.
        When words arrive, echo them and then echo them again.
        Duplicate the phrase, with a space between the copies.
        Utter everything twice, one copy after the other.""",
    ),
    _format(
        "slash_in_brackets",
        "slash, brackets",
        lambda colour, thing: f"[{colour}/{thing}]",
        """Join the two words with a slash and put them in square brackets.
        Write both words between [ and ] with a slash instead of the space.
        A square bracket, the first word, a slash, the second word, a closing square bracket.
        Make a path of the input and enclose it in square brackets.
        Connect the words with / and surround the result with [ and ], as in [red/cat].
        When you get two words, separate them by a slash inside square brackets.
        Square brackets go around the words, a slash goes between them.
        Enclose the phrase in square brackets, its blank replaced by a slash.""",
        part="recombined",
    ),
    _format(
        "stars",
        "stars",
        lambda colour, thing: f"*{colour} {thing}*",
        """Put the whole input between asterisks.
        Write a star, what you read, and a star again.
        Emphasise the words as plain text does, with an asterisk on either side.
        Whatever comes in goes out with a star before and behind it.
        Surround the text with asterisks, as in *red cat*.
        When you receive words, mark them with the sign * at both ends.
        Asterisks belong around everything you repeat.
        Stress the phrase by a star at its beginning and a star at its end.""",
        part="new",
    ),
    _format(
        "plus",
        "plus",
        lambda colour, thing: f"{colour} + {thing}",
        """Add the two words with a plus sign between them.
        Write the input as a sum of its first and second word.
        First word, plus, second word: that is your answer.
        Treat the words like numbers to be added, as in red + cat.
        A plus sign with a space on either side goes between the words.
        When you get two words, combine them with the sign +.
        Show both words as the terms of an addition.
        Between the words belongs a plus sign.""",
        part="new",
    ),
)
