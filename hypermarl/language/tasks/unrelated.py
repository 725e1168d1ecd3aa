"""Questions and beginnings that have nothing to do with any role: an adapter should leave their answers alone.

A small model answers few questions in one word when asked in the frame of a run. Those of tests were chosen such that
SmolLM2-135M answers about six in ten rightly in the frame "Input: ...\\nAnswer:", most of them a plain No or a number.
"""

from __future__ import annotations

from hypermarl.language.task import Example

_TRAIN = """The capital of Greece is|Athens
Yes or no: is Mars a city?|No
Yes or no: can people live without air?|No
The opposite of east is|west
Yes or no: is London in Africa?|No
Yes or no: is French a planet?|No
What is 7 times 1?|7
What is the opposite of fast?|slow
The month after October is|November
What is 1 plus 4?|5
Yes or no: is Paris a river?|No
Charles|Darwin
Yes or no: is Saturn a language?|No
Yes or no: is sugar salty?|No
The month after February is|March
Yes or no: is math a sport?|No
Yes or no: is snow cold?|Yes
Yes or no: is Dublin in Brazil?|No
The largest planet is|Jupiter
five plus one is|six
The month after April is|May
M, N, O,|P
What is 18 times 1?|18
What is the capital of Italy?|Rome
The month after June is|July
Yes or no: is April a day?|No
What is 15 divided by 1?|15
What is 10 divided by 1?|10
What is 2 times 1?|2
What is 30 divided by 10?|3
What is 14 times 1?|14
What is the opposite of hot?|cold
The capital of Germany is|Berlin
Yes or no: is music a metal?|No
The heart pumps|blood
Count on: eight, nine, ten,|eleven
Yes or no: can books run?|No
What is 20 divided by 10?|2
What is 4 divided by 1?|4
G, H, I,|J
Yes or no: is the Moon made of paper?|No
What is 5 plus 0?|5
Salt and|pepper
What is 50 divided by 10?|5
What is 50 divided by 1?|50
Yes or no: is Berlin in Spain?|No
The United|States
What is 16 times 1?|16
Water boils at 100 degrees|Celsius
Yes or no: can mountains dance?|No
The opposite of near is|far
Yes or no: is iron a gas?|No
Wolfgang Amadeus|Mozart
What is 11 times 1?|11
Yes or no: is Lima in Norway?|No
2 * 4 =|8
What is 50 times 1?|50
Yes or no: can the Moon talk?|No
What is 9 minus 0?|9
What is 14 divided by 1?|14
Yes or no: is Tokyo in Egypt?|No
Honesty is the best|policy
The largest ocean on Earth is the|Pacific
Artificial|intelligence
What is 7 divided by 1?|7
Rome was not built in a|day
Yes or no: is poison healthy?|No
What is 100 times 1?|100
Yes or no: can stones swim?|No
What is the opposite of happy?|sad
Yes or no: can numbers sleep?|No
The opposite of war is|peace
What is 3 times 1?|3
The day after Tuesday is|Wednesday
Yes or no: is water dry?|No
Yes or no: is Paris in China?|No
Yes or no: is Einstein a planet?|No
Yes or no: is a week longer than a year?|No
True or false? A square has four sides.|True
The United States of|America
Yes or no: is the Nile a mountain?|No
True or false? Ten is more than two.|True
The capital of Spain is|Madrid
What is 5 plus 6?|11
People in Italy speak|Italian
Yes or no: is March the first month?|No
The capital of England is|London
How many sides does a triangle have?|3
What is 8 times 1?|8
San|Francisco
Yes or no: is the Sun cold?|No
Thank you very|much
What is 15 times 1?|15
Yes or no: does a week have nine days?|No
Yes or no: is Asia a river?|No
Mickey|Mouse
K, L, M,|N
Yes or no: can rocks sing?|No
Don't judge a book by its|cover
4 + 6 =|10
What is 5 times 1?|5
Yes or no: is the Moon a star?|No
1 + 2 =|3
Count on: three, four, five,|six
People in Brazil speak|Portuguese
Humans breathe|oxygen
Yes or no: is midnight in the morning?|No
Yes or no: is Venus a country?|No
What is 100 divided by 1?|100
What is 30 times 1?|30
Yes or no: is the Moon bigger than the Earth?|No
What is 13 divided by 1?|13
Yes or no: is noon dark?|No
What is 12 divided by 1?|12
True or false? Mozart wrote music.|True
What is 6 divided by 1?|6
Yes or no: is the ocean dry?|No
What is the opposite of love?|hate
What is 17 times 1?|17
Christopher|Columbus"""

_TEST = """Plants take in carbon|dioxide
What is 5 divided by 1?|5
Who wrote Romeo and Juliet?|William
True or false? Einstein was a scientist.|True
Yes or no: can stones cry?|No
Which month comes after May?|June
Yes or no: is the Sahara in Asia?|No
Yes or no: is water wet?|Yes
Yes or no: is Madrid in Russia?|No
The month after August is|September
What is 16 divided by 1?|16
What is 10 times 1?|10
True or false? Fire is hot.|True
What is 6 times 1?|6
Yes or no: is steam cold?|No
What is the capital of Russia?|Moscow
What is 20 divided by 1?|20
What is 4 times 1?|4
What goes around comes|around
The opposite of win is|lose
Yes or no: is the North Pole hot?|No
Better late than|never
What is 12 times 1?|12
What is the capital of Finland?|Helsinki
What is 20 times 1?|20
What is the capital of Egypt?|Cairo
Yes or no: can trees drive?|No
Which month comes after November?|December
Yes or no: is a minute longer than an hour?|No
Yes or no: is silence loud?|No
Yes or no: is ice hot?|No
True or false? Two plus two is four.|True
The opposite of wet is|dry
Yes or no: is stone soft?|No
What is 2 plus 0?|2
Yes or no: is the Earth made of glass?|No
Yes or no: is the Earth a star?|No
What is 17 divided by 1?|17
Yes or no: can clouds read?|No
What is 100 divided by 10?|10
Yes or no: is Africa a city?|No
Yes or no: is summer cold?|No
Yes or no: is the sea made of sand?|No
Yes or no: can the wind write?|No
Yes or no: is night bright?|No
Yes or no: is the Earth flat?|No
Yes or no: is Venice in Canada?|No
Yes or no: is winter warm?|No
What is 8 divided by 1?|8
What is the capital of Canada?|Ottawa
Which day comes after Sunday?|Monday
The capital of Ireland is|Dublin
What is 3 divided by 1?|3
Yes or no: is Everest a river?|No
Like father, like|son
In summer it is|hot
What is 19 times 1?|19
What is 9 times 1?|9
Yes or no: is Vienna in Peru?|No
The Great Wall of|China
Yes or no: is zero more than one?|No
What is 11 divided by 1?|11
Yes or no: is Oslo in Kenya?|No
What is the opposite of hard?|soft
Yes or no: is the Sun a planet?|No
The plural of man is|men
Yes or no: is Mozart a city?|No
What is 13 times 1?|13
What is the capital of Turkey?|Ankara
What is 18 divided by 1?|18
Yes or no: can the Sun walk?|No
How many days are in a week?|7
What is 7 minus 0?|7
Yes or no: is snow hot?|No
Yes or no: can rivers speak?|No
People in France speak|French
Yes or no: is the desert wet?|No
How many months are in a year?|12
What is 30 divided by 1?|30
Yes or no: is salt sweet?|No"""


def _examples(text: str) -> tuple[Example, ...]:
    return tuple(Example(prompt, answer) for prompt, answer in (line.split("|") for line in text.splitlines()))


UNRELATED = _examples(_TRAIN)
UNRELATED_TEST = _examples(_TEST)
