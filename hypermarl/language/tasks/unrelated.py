"""Questions and beginnings that have nothing to do with any role: an adapter should leave their answers alone."""

from __future__ import annotations

from hypermarl.language.task import Example

_TRAIN = """The capital of Iraq is|Baghdad
Which day comes after Sunday?|Monday
Is the Earth round?|Yes
The capital of England is|London
Los|Angeles
Happy New|Year
People in Russia speak|Russian
The Pacific|Ocean
Nelson|Mandela
What is 6 plus 4?|10
What is 5 plus 2?|7
Count on: five, six, seven,|eight
How many sides does a triangle have?|3
What is the opposite of hot?|cold
Practice what you|preach
Merry|Christmas
Martin Luther|King
An apple a day keeps the doctor|away
How many legs does a spider have?|8
Who wrote Romeo and Juliet?|William
Rome was not built in a|day
Knowledge is|power
Mickey|Mouse
The Statue of Liberty is in New|York
The capital of Chile is|Santiago
Climate|change
six plus six is|twelve
What is the opposite of day?|night
The opposite of good is|bad
What is the opposite of long?|short
The largest planet is|Jupiter
The World Wide|Web
5 * 4 =|20
The day after Friday is|Saturday
E, F, G,|H
The capital of Denmark is|Copenhagen
3 + 1 =|4
Hong|Kong
How many hours are in a day?|24
The currency of Japan is the|yen
The past tense of see is|saw
Half of ten is|five
6 + 2 =|8
The opposite of big is|small
No pain, no|gain
The opposite of old is|new
Half of eight is|four
To be or not to|be
What is the opposite of fast?|slow
How many days are in a week?|7
4 + 3 =|7
Three times three is|nine
What is the capital of Portugal?|Lisbon
Water boils at 100 degrees|Celsius
Two times two is|four
S, T, U,|V
What is 3 plus 4?|7
Every cloud has a silver|lining
The United|States
The Roman|Empire
The human|body
The Eiffel Tower is in|Paris
What is the capital of Austria?|Vienna
The Moon goes around the|Earth
The month after August is|September
What goes around comes|around
The plural of man is|men
What is the plural of mouse?|mice
The Industrial|Revolution
People in Germany speak|German
The past tense of write is|wrote
4 + 6 =|10
Mount Everest is in|Nepal
People in Brazil speak|Portuguese
The capital of Greece is|Athens
How many players are in a football team?|11
What is the capital of Russia?|Moscow
The currency of the United States is the|dollar
What is the capital of Norway?|Oslo
What is the opposite of high?|low
How many minutes are in an hour?|60
Which day comes after Thursday?|Friday
Which month comes after November?|December
What is 2 times 3?|6
3 + 5 =|8
Ten minus one is|nine
The plural of foot is|feet
five plus five is|ten
2 + 3 =|5
Pablo|Picasso
People in China speak|Chinese
What is 2 plus 2?|4
M, N, O,|P
five plus one is|six
The Middle|East
Big Ben is in|London
What is the opposite of inside?|outside
six plus three is|nine
1 + 5 =|6
South|Africa
The opposite of near is|far
What is the capital of Iran?|Tehran
Which day comes after Tuesday?|Wednesday
Barack|Obama
In summer it is|hot
What is the opposite of north?|south
Which month comes after May?|June
H2O is|water
What is the capital of Italy?|Rome
Which month comes after January?|February
The opposite of win is|lose
four plus four is|eight
What is the capital of Finland?|Helsinki
C, D, E,|F
The United States of|America
The first president of the United States was George|Washington
The French|Revolution
Charles|Darwin
The pyramids are in|Egypt
What is the capital of Belgium?|Brussels"""

_TEST = """The day after Saturday is|Sunday
The opposite of begin is|end
Artificial|intelligence
The opposite of full is|empty
The opposite of rich is|poor
The sky is the|limit
What is 10 minus 3?|7
What number comes after 5?|6
What number comes after 8?|9
5 + 4 =|9
Count on: zero, one, two,|three
What is 4 plus 1?|5
What is 2 plus 6?|8
People in Japan speak|Japanese
The past tense of go is|went
What is the opposite of happy?|sad
What is the opposite of love?|hate
The capital of Sweden is|Stockholm
three plus six is|nine
Mother and|father
The opposite of wet is|dry
What is the capital of Syria?|Damascus
Brother and|sister
What is 1 plus 4?|5
three plus two is|five
3 * 3 =|9
The month after December is|January
Abraham|Lincoln
The capital of Hungary is|Budapest
What is the capital of Kenya?|Nairobi
Practice makes|perfect
one plus six is|seven
Ladies and|gentlemen
The capital of Peru is|Lima
What is the opposite of open?|closed
Water is made of hydrogen and|oxygen
2 * 4 =|8
The opposite of strong is|weak
People in Spain speak|Spanish
Julius|Caesar
The largest ocean on Earth is the|Pacific
Salt and|pepper
What is 5 plus 6?|11
We live on the planet|Earth
Is the Earth flat?|No
The heart pumps|blood
I, J, K,|L
What is the capital of France?|Paris
Black holes were studied by Stephen|Hawking
9 - 3 =|6
The day after Monday is|Tuesday
Count on: four, five, six,|seven
The month after February is|March
Actions speak louder than|words
We see with our|eyes
Q, R, S,|T
The pen is mightier than the|sword
What is 10 times 10?|100
What number comes after 6?|7
The solar|system
The month after June is|July
Harry|Potter
U, V, W,|X
Count on: eight, nine, ten,|eleven
The opposite of left is|right
We hear with our|ears
Which day comes after Friday?|Saturday
Marie|Curie
The Nile is a|river
Two wrongs don't make a|right
Humans breathe|oxygen
How many sides does a square have?|4
The Cold|War
Sherlock|Holmes
Which day comes after Monday?|Tuesday
Neil|Armstrong
6 + 5 =|11
What number comes after 10?|11
8 - 2 =|6
The opposite of male is|female"""


def _examples(text: str) -> tuple[Example, ...]:
    return tuple(Example(*line.split("|")) for line in text.splitlines())


UNRELATED = _examples(_TRAIN)
UNRELATED_TEST = _examples(_TEST)
