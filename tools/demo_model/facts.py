"""Facts of the little world: each table becomes questions in several phrasings, with one or two forms of the answer."""

# ruff: noqa: E501 - one template or table row per line, however long it is

import random
from collections.abc import Callable

from grammar import capitalize, expand, fix_articles
from other_languages import WORDS
from sums import make_difference, make_sum

SOUNDS = {
    "cow": "moo", "dog": "woof", "cat": "meow", "duck": "quack", "sheep": "baa", "pig": "oink", "horse": "neigh",
    "hen": "cluck", "rooster": "cock-a-doodle-doo", "owl": "hoo-hoo", "frog": "ribbit", "mouse": "squeak", "lion": "roar",
    "bee": "buzz", "snake": "hiss", "wolf": "awoo", "bird": "tweet", "donkey": "hee-haw", "goat": "meh", "crow": "caw",
}  # fmt: skip
COLOURS = {
    "the sky": "blue", "grass": "green", "snow": "white", "the sun": "yellow", "a banana": "yellow", "a lemon": "yellow",
    "a strawberry": "red", "a tomato": "red", "a carrot": "orange", "a pumpkin": "orange", "milk": "white",
    "the sea": "blue", "a frog": "green", "coal": "black", "the night": "black", "chocolate": "brown", "a mouse": "grey",
    "an elephant": "grey", "a plum": "purple", "a pig": "pink", "a swan": "white", "a leaf": "green", "gold": "yellow",
    "a cherry": "red", "an orange": "orange", "a bear": "brown", "a cloud": "white", "fire": "red",
}  # fmt: skip
USES = {
    "a spoon": "eating soup", "a knife": "cutting bread", "an umbrella": "staying dry in the rain", "a key": "opening a door",
    "a pencil": "drawing and writing", "a bed": "sleeping", "a broom": "sweeping the floor", "a lamp": "giving light",
    "a boat": "crossing the water", "a clock": "telling the time", "a book": "reading", "a cup": "drinking tea",
    "a scarf": "keeping the neck warm", "a ladder": "climbing up", "a map": "finding the way", "a bell": "calling people",
    "soap": "washing hands", "a brush": "painting a picture", "a basket": "carrying apples", "a bridge": "crossing a river",
    "a hammer": "hitting nails", "a chair": "sitting", "a coat": "keeping warm", "a shovel": "digging a hole",
}  # fmt: skip
BABIES = {
    "dog": "puppy", "cat": "kitten", "cow": "calf", "sheep": "lamb", "horse": "foal", "hen": "chick", "duck": "duckling",
    "pig": "piglet", "bear": "cub", "goat": "kid", "frog": "tadpole", "lion": "cub", "owl": "owlet", "goose": "gosling",
}  # fmt: skip
LIVES = {
    "fish": "in the water", "bird": "in a nest", "bee": "in a hive", "rabbit": "in a burrow", "bear": "in a cave",
    "horse": "in a stable", "frog": "near a pond", "owl": "in a hollow tree", "penguin": "in the cold south",
    "camel": "in the desert", "whale": "in the ocean", "fox": "in a den", "spider": "in a web", "pig": "in a pigsty",
    "monkey": "in the jungle", "dog": "in a kennel", "squirrel": "in a tree", "hen": "in a henhouse",
}  # fmt: skip
EATS = {
    "rabbit": "carrots and grass", "cow": "grass", "monkey": "bananas", "bear": "honey and berries", "mouse": "cheese and seeds",
    "squirrel": "nuts", "cat": "fish and mice", "dog": "meat and bones", "horse": "hay and oats", "hen": "corn and worms",
    "bird": "seeds and worms", "penguin": "fish", "koala": "leaves", "frog": "flies", "lion": "meat", "goat": "leaves and grass",
}  # fmt: skip
LEGS = {
    "dog": "four", "cat": "four", "spider": "eight", "bird": "two", "bee": "six", "horse": "four", "hen": "two", "ant": "six",
    "cow": "four", "duck": "two", "fish": "no", "snake": "no", "worm": "no", "penguin": "two", "rabbit": "four",
}  # fmt: skip
OPPOSITES = (
    ("big", "small"), ("hot", "cold"), ("day", "night"), ("up", "down"), ("happy", "sad"), ("fast", "slow"), ("old", "young"),
    ("open", "closed"), ("light", "dark"), ("wet", "dry"), ("full", "empty"), ("high", "low"), ("long", "short"),
    ("hard", "soft"), ("early", "late"), ("near", "far"), ("loud", "quiet"), ("yes", "no"), ("left", "right"), ("in", "out"),
    ("good", "bad"), ("first", "last"), ("strong", "weak"), ("rich", "poor"), ("clean", "dirty"), ("brave", "afraid"),
)  # fmt: skip
NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
MONTHS = [
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
SEASONS = ["spring", "summer", "autumn", "winter"]
GROUPS = {
    "animals": "a dog|a cat|a rabbit|a horse|a bear|a fox|an owl|a frog|a lion|a duck|a mouse|a cow",
    "farm animals": "a cow|a pig|a hen|a sheep|a horse|a goat|a duck",
    "fruits": "an apple|a pear|a plum|a cherry|a banana|a strawberry|an orange|a lemon",
    "vegetables": "a carrot|a cabbage|a bean|a pumpkin|an onion|a potato|a leek",
    "colours": "red|blue|green|yellow|orange|purple|pink|white|black|brown",
    "flowers": "a rose|a tulip|a daisy|a lily|a sunflower|a violet",
    "birds": "an owl|a duck|a parrot|a penguin|a hen|a swan|a crow",
    "toys": "a ball|a kite|a doll|a toy train|a drum|a puzzle",
    "clothes": "a hat|a scarf|a coat|a shirt|a glove|a shoe",
    "things in a kitchen": "a spoon|a cup|a plate|a pot|a bowl|a knife",
}
REASONS = (
    ("do birds have wings", "Birds have wings so that they can fly"),
    ("do we sleep", "We sleep because our body needs rest"),
    ("does it rain", "It rains because the clouds are full of water"),
    ("do we wear coats", "We wear coats because they keep us warm"),
    ("do bees visit flowers", "Bees visit flowers to collect nectar for honey"),
    ("is it dark at night", "It is dark at night because the sun is on the other side of the world"),
    ("do we brush our teeth", "We brush our teeth to keep them clean and healthy"),
    ("do plants need water", "Plants need water because they cannot grow without it"),
    ("does ice melt", "Ice melts when it gets warm"),
    ("do friends share", "Friends share because it makes everybody happy"),
    ("do leaves fall in autumn", "Leaves fall in autumn because the tree rests in winter"),
    ("do rabbits have long ears", "Rabbits have long ears so that they can hear very well"),
)
TRUE_FALSE = (
    ("Is snow cold", "Yes, snow is very cold"), ("Is fire cold", "No, fire is hot"), ("Can a fish fly", "No, a fish swims"),
    ("Can a bird fly", "Yes, a bird can fly with its wings"), ("Is the sun hot", "Yes, the sun is very hot"),
    ("Is a mouse bigger than an elephant", "No, a mouse is much smaller than an elephant"),
    ("Is an elephant bigger than a mouse", "Yes, an elephant is much bigger than a mouse"),
    ("Is a turtle fast", "No, a turtle is slow"), ("Is honey sweet", "Yes, honey is sweet"),
    ("Is a lemon sweet", "No, a lemon is sour"), ("Does a cow give milk", "Yes, a cow gives milk"),
    ("Does a hen lay eggs", "Yes, a hen lays eggs"), ("Does a dog lay eggs", "No, a dog does not lay eggs"),
    ("Is the moon a cheese", "No, the moon is made of rock"), ("Can a horse read", "No, a horse cannot read"),
)  # fmt: skip

Fact = tuple[str, str]


def from_table(table: dict[str, str], questions: str, answers: str, article: bool) -> Callable[[random.Random], Fact]:
    """Make a function that draws one row; `{k}` is the key, `{ak}` the key with its article, `{v}` the value."""

    def draw(rng: random.Random) -> Fact:
        key, value = rng.choice(list(table.items()))
        slots = {"k": key, "ak": f"a {key}" if article else key, "v": value}
        return expand(questions, rng, slots), expand(answers, rng, slots)

    return draw


def _count(rng: random.Random) -> Fact:
    start = 1 if rng.random() < 0.6 else rng.randint(0, 5)
    stop = rng.randint(start + 2, 10)
    names = [NUMBERS[n] for n in range(start, stop + 1)]
    short = start == 1 and rng.random() < 0.7
    count = rng.choice(("Count", "Count", "Please count", "Can you count", "I want you to count"))
    question = f"{count} to {names[-1]}" if short else f"{count} from {names[0]} to {names[-1]}"
    return question + rng.choice(("", ".", ", please.")), capitalize(", ".join(names)) + "."


def _neighbour(rng: random.Random) -> Fact:
    row, what = rng.choice(((DAYS, "day"), (MONTHS, "month"), (SEASONS, "season"), (NUMBERS, "number")))
    word, step = rng.choice((("after", 1), ("before", -1)))
    index = rng.randrange(len(row))
    while row is NUMBERS and not 0 <= index + step < len(row):
        index = rng.randrange(len(row))
    other = row[(index + step) % len(row)]
    question = expand(
        f"[[What|Which {what}] [comes|is] {word} {row[index]}?|Which {what} comes right {word} {row[index]}?"
        f"|Tell me the {what} {word} {row[index]}.]",
        rng,
        {},
    )
    return question, f"{capitalize(other)} comes {word} {row[index]}."


def _opposite(rng: random.Random) -> Fact:
    pair = list(rng.choice(OPPOSITES))
    rng.shuffle(pair)
    slots = {"k": pair[0], "v": pair[1]}
    question = expand(
        '[What is the opposite of [{k}|"{k}"]?|Give me the opposite of {k}.|Opposite of {k}?|Which word is the opposite of {k}?|'
        "Tell me the opposite of {k}.|What is not {k}?|If something is not {k}, what is it?|The opposite of {k} is what?]",
        rng,
        slots,
    )
    return question, expand("The opposite of {k} is {v}.", rng, slots)


def _group(rng: random.Random) -> Fact:
    group, members = rng.choice(list(GROUPS.items()))
    number = rng.choice((2, 3, 3, 3, 4))
    chosen = rng.sample(members.split("|"), number)
    question = expand(f"[List|Name|Give me|Tell me] {NUMBERS[number]} {group}[|.]", rng, {})
    return question, capitalize(", ".join(chosen[:-1])) + f" and {chosen[-1]}."


def _translate(rng: random.Random) -> Fact:
    english, french, chinese = rng.choice(WORDS)
    language, word = rng.choice((("French", french), ("Chinese", chinese)))
    slots = {"k": english, "l": language, "v": word}
    question = expand(
        '[How do you say [{k}|"{k}"] in {l}?|Translate [{k}|"{k}"] [into|to] {l}.|What is {k} in {l}?|Say {k} in {l}.|What is the {l} word for {k}?|'
        "{K} in {l}?|How is {k} called in {l}?|Tell me the {l} word for {k}.|What do you call {k} in {l}?|Which {l} word means {k}?]",
        rng,
        slots,
    )
    return question, expand('In {l}, "{k}" is "{v}".', rng, slots)


def _back(rng: random.Random) -> Fact:
    english, french, chinese = rng.choice(WORDS)
    language, word = rng.choice((("French", french), ("Chinese", chinese)))
    question = expand(
        '[What does [{v}|"{v}"] mean?|What is [{v}|"{v}"] in English?|Translate [{v}|"{v}"] into English.|What is the meaning of "{v}"?|'
        'What is the English word for "{v}"?|Which English word is [{v}|"{v}"]?]',
        rng,
        {"v": word},
    )
    return question, f'"{word}" is {language} for "{english}".'


def _lists(rng: random.Random) -> Fact:
    return rng.choice(
        (
            ("What are the days of the week?", ", ".join(DAYS[:-1]) + " and Sunday."),
            ("Name the days of the week.", ", ".join(DAYS[:-1]) + " and Sunday."),
            ("What are the four seasons?", "Spring, summer, autumn and winter."),
            ("Name the four seasons.", "Spring, summer, autumn and winter."),
            ("What are the months of the year?", ", ".join(MONTHS[:-1]) + " and December."),
            ("How many days does a week have?", "There are seven days in a week."),
            ("How many months does a year have?", "There are twelve months in a year."),
            ("Which seasons are there?", "Spring, summer, autumn and winter."),
            ("How many days are in a week?", "There are seven days in a week."),
            ("How many months are in a year?", "There are twelve months in a year."),
            ("How many seasons are there?", "There are four seasons."),
        )
    )


def pairs(rows: tuple[Fact, ...], questions: str, answers: str = "{v}.") -> Callable[[random.Random], Fact]:
    """Make a function that draws one of some rows; `{k}` is what is asked about, `{v}` the answer."""
    return from_table(dict(rows), questions, answers, False)


MAKERS: tuple[tuple[Callable[[random.Random], Fact], int], ...] = (
    (from_table(SOUNDS, "[What sound does {ak} make?|What does {ak} say?|Which sound does {ak} make?|How does {ak} sound?|What noise does {ak} make?"
                 "|Tell me the sound of {ak}.|How does the {k} go?|What do you hear from {ak}?|{Ak} says what?|Do you know what {ak} says?]",
                 "{Ak} says {v}.", True), 10),
    (from_table(COLOURS, "[What colour is {k}?|What color is {k}?|Which colour is {k}?|What is the colour of {k}?|Tell me the colour of {k}."
                 "|Which colour does {k} have?|What colour do you see when you look at {k}?|{K} has which colour?|Do you know the colour of {k}?]",
                 "{K} is {v}.", False), 12),
    (from_table(USES, "[What is {k} used for?|What do you use {k} for?|What is {k} for?|Why do we need {k}?|What can I do with {k}?|What do people do with {k}?"
                 "|How do you use {k}?|I have {k}. What is it for?|When do you need {k}?]",
                 "{K} is used for {v}.", False), 9),
    (from_table(BABIES, "[What is a baby {k} called?|What do you call a baby {k}?|What is the name of a baby {k}?|What is the baby of {ak} called?"
                 "|How do we call a young {k}?|What is the child of {ak}?|The baby of {ak} is called what?|What do we call a little {k}?]", "A baby {k} is called a {v}.", True), 6),
    (from_table(LIVES, "[Where does {ak} live?|Where can I find {ak}?|Where is the home of {ak}?|Where do you find {ak}?|In which place does {ak} live?"
                 "|Where is {ak} at home?|Tell me where {ak} lives.|What is the home of {ak}?|Where would I look for {ak}?]", "{Ak} lives {v}.", True), 7),
    (from_table(EATS, "[What does {ak} eat?|What does {ak} like to eat?|What is the food of {ak}?|What can I feed {ak}?|What do you give {ak} to eat?"
                 "|What should I give a hungry {k}?|Tell me what {ak} eats.|What is in the bowl of {ak}?|What food does {ak} like?]", "{Ak} eats {v}.", True), 7),
    (from_table(LEGS, "[How many legs does {ak} have?|How many legs has {ak}?|Count the legs of {ak}.|On how many legs does {ak} walk?"
                 "|What is the number of legs of {ak}?|Tell me how many legs {ak} has.|Does {ak} have legs?|{Ak} has how many legs?]", "{Ak} has {v} legs.", True), 6),
    (pairs(REASONS, "[Why {k}?|Can you tell me why {k}?|Tell me: why {k}?|I wonder: why {k}?|Do you know why? Why {k}?|What is the reason: why {k}?]"), 5),
    (pairs(TRUE_FALSE, "[{k}?|Tell me: {k}?|I want to know: {k}?|Yes or no: {k}?|{k}, or not?|What do you think: {k}?]"), 6),
    (make_sum, 20), (make_difference, 6), (_count, 5), (_neighbour, 10), (_opposite, 9), (_group, 7), (_translate, 14), (_back, 8), (_lists, 4),
)  # fmt: skip


# These have many right answers, or are measured on their own.
_OPEN = (_group, make_sum, make_difference)


def make_fact(rng: random.Random, one_answer: bool = False) -> Fact:
    """Draw a question about the little world and its answer; with `one_answer`, no list and no sum."""
    makers = [(maker, weight) for maker, weight in MAKERS if not (one_answer and maker in _OPEN)]
    maker = rng.choices([maker for maker, _ in makers], [weight for _, weight in makers])[0]
    question, answer = maker(rng)
    return fix_articles(question), fix_articles(answer)
