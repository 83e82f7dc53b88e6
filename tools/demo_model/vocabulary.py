"""Word lists of the little world: who lives in it, where, and with which things."""


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _phrases(text: str) -> tuple[str, ...]:
    return tuple(" ".join(phrase.split()) for phrase in text.split("|"))


# kind of character -> its home
HOMES = {
    "dog": "a wooden kennel",
    "puppy": "a warm basket",
    "cat": "a house with a red roof",
    "kitten": "a cosy kitchen",
    "rabbit": "a soft burrow",
    "bear": "a dry cave",
    "fox": "a den under an oak tree",
    "mouse": "a tiny hole in the wall",
    "duck": "a nest among the reeds",
    "owl": "a hollow tree",
    "frog": "a green pond",
    "horse": "a big stable",
    "pony": "a small stable",
    "pig": "a tidy pigsty",
    "sheep": "a field of clover",
    "cow": "a sunny barn",
    "hen": "a small henhouse",
    "goat": "a shed on a rocky hill",
    "lion": "a land of tall yellow grass",
    "elephant": "a wide green valley",
    "monkey": "a treehouse",
    "penguin": "a house made of snow",
    "turtle": "a quiet bay",
    "squirrel": "a tall pine tree",
    "hedgehog": "a pile of dry leaves",
    "dragon": "an old castle",
    "robot": "a bright workshop",
    "girl": "a little white house",
    "boy": "a little brick house",
    "wolf": "a den in the hills",
    "deer": "a clearing in the woods",
    "bee": "a golden hive",
    "tiger": "a deep jungle",
    "parrot": "a palm tree",
    "koala": "a tall gum tree",
    "giant": "a huge stone tower",
    "zebra": "a sunny plain",
    "giraffe": "a grove of tall trees",
    "snail": "a round brown shell",
    "panda": "a bamboo forest",
    "donkey": "an old shed",
    "badger": "a cosy den",
    "beaver": "a lodge in the river",
    "otter": "a house by the river",
    "goose": "a yard behind the barn",
    "mole": "a long dark tunnel",
    "seal": "a cove by the sea",
    "crow": "a nest in an old oak",
    "swan": "a silver lake",
    "camel": "a tent in the desert",
    "crocodile": "a slow brown river",
    "lamb": "a green pasture",
    "butterfly": "a garden of roses",
    "fairy": "a blue flower",
    "wizard": "a tower full of books",
    "pirate": "an old wooden ship",
    "princess": "a white palace",
    "prince": "a grey palace",
    "queen": "a golden palace",
    "king": "a great palace",
    "farmer": "a house with a barn",
    "baker": "a house that smelled of bread",
}
KINDS = tuple(HOMES)
OTHER_KINDS = _words(
    """hamster gecko kangaroo whale dolphin shark octopus crab lobster eagle pigeon robin raven peacock turkey chicken
    rooster calf foal chick duckling piglet bull ox yak moose reindeer llama alpaca buffalo rhino hippo leopard cheetah
    jaguar panther lynx raccoon skunk weasel ferret rat gerbil chipmunk bat toad newt lizard chameleon snake worm ant
    beetle ladybird spider moth dragonfly grasshopper firefly unicorn mermaid witch knight ghost elf dwarf troll goblin
    monster astronaut sailor teacher doctor nurse postman gardener painter clown cook tailor miller shepherd fisherman
    baby grandmother grandfather snowman teddy"""
)
HOME_OF_OTHERS = "a small house"
GENDERS = {"girl": "f", "boy": "m", "princess": "f", "prince": "m", "queen": "f", "king": "m", "fairy": "f"}

TRAITS = _words(
    """little brave kind curious shy clever gentle cheerful sleepy funny quiet friendly playful young happy lonely proud
    careful busy small honest patient merry polite"""
)
COLOURS = _words("red blue green yellow orange purple pink white black brown golden silver grey")
PLACES = tuple(
    """forest|meadow|river|hill|village|market|beach|lake|farm|garden|park|castle|mill|school|pond|valley|orchard
    |mountain|bridge|barn|library|harbour|playground|windmill|bakery|station|waterfall|town square""".replace(
        "\n    ", ""
    ).split("|")
)
OBJECTS = _phrases(
    """ball|kite|hat|scarf|bell|drum|key|book|lantern|basket|umbrella|doll|toy boat|whistle|button|coin|ribbon|mirror
    |blanket|cup|spoon|teapot|clock|flute|brush|marble|feather|necklace|ring|bag|pencil|glove|toy train|bucket|music box
    """
)
OTHER_OBJECTS = _words(
    """pillow candle hammer ladder rope stone shell pebble crown mask puppet puzzle balloon rocket robot guitar trumpet
    violin piano camera map compass telescope torch wallet purse sock shoe boot belt tie jacket sweater mitten apron
    plate fork bowl jar bottle jug pan pot broom mop sponge towel soap comb pin needle thread patch card letter stamp
    envelope notebook crayon chalk ruler magnet marker sticker dice domino top yo-yo sled skate scooter wagon boat
    anchor shield sword wand cloak lamp lantern vase pearl ruby star acorn leaf twig"""
)
FRAGILE = ("vase", "teapot", "plate", "mirror", "window", "bowl", "flower pot", "lamp", "clock", "jar")
FOODS = (
    ("apple", "apples"),
    ("pear", "pears"),
    ("cookie", "cookies"),
    ("carrot", "carrots"),
    ("plum", "plums"),
    ("pancake", "pancakes"),
    ("cherry", "cherries"),
    ("sandwich", "sandwiches"),
    ("nut", "nuts"),
    ("strawberry", "strawberries"),
    ("muffin", "muffins"),
    ("banana", "bananas"),
)
SEEDS = ("sunflower", "pumpkin", "tomato", "bean", "tulip", "melon", "rose", "carrot", "daisy", "cabbage")
# skill, what practice looks like, the first failure
SKILLS = (
    ("swim", "kicked in the shallow water", "swallowed a mouthful of water"),
    ("whistle", "blew softly through the lips", "made only a funny puff"),
    ("skate", "took small steps on the ice", "slipped and sat down with a bump"),
    ("read", "looked at one letter at a time", "mixed up all the letters"),
    ("dance", "counted one, two, three", "tripped over a chair"),
    ("climb", "held on to one branch at a time", "slid down into the grass"),
    ("sing", "hummed one note after another", "croaked like a rusty door"),
    ("juggle", "threw one ball, then two", "dropped all the balls at once"),
    ("fly a kite", "ran into the wind again and again", "pulled the kite into a bush"),
    ("paint", "mixed the colours slowly", "spilled blue paint on the floor"),
    ("ride a bicycle", "pushed the pedals slowly", "fell into a heap of leaves"),
    ("bake bread", "measured the flour with care", "burned the first loaf"),
)
# the noise, what it turned out to be, what was done about it
NOISES = (
    ("tap, tap", "a branch knocking on the window", "tied the branch back with a string"),
    ("hoo, hoo", "a baby owl that could not sleep", "hummed a lullaby for the baby owl"),
    ("scratch, scratch", "a small kitten that wanted to come in", "opened the door and gave the kitten some milk"),
    ("drip, drop, drip", "water falling from the roof into a bucket", "moved the bucket and dried the floor"),
    ("clack, clack", "an old shutter swinging in the wind", "closed the shutter with a hook"),
    ("squeak, squeak", "a mouse turning a tiny wheel", "put a drop of oil on the wheel"),
    ("crunch, crunch", "a hedgehog eating a crisp apple", "wished the hedgehog a good meal"),
    ("ding, ding", "a bell on the collar of a lost lamb", "led the lamb back to the farm"),
)
# where somebody gets stuck, what helps, how
TRAPS = (
    ("deep mud", "a long rope", "pulled with all the strength in the world"),
    ("an old well", "a ladder", "held the ladder very still"),
    ("the top of a tall tree", "a ladder", "climbed up step by step"),
    ("a thorny bush", "a pair of scissors", "cut the thorns one by one"),
    ("a fishing net", "a sharp shell", "cut the net one string at a time"),
    ("a narrow hole", "a wooden spoon", "dug until the hole was wide enough"),
    ("a deep snowdrift", "a shovel", "dug a path through the snow"),
    ("a dark cellar", "a lantern", "lit the way to the stairs"),
)
GIFTS = (
    ("a paper crown", "paper and gold paint"),
    ("a flower necklace", "daisies and string"),
    ("a clay pot", "soft brown clay"),
    ("a picture of the sea", "blue and green crayons"),
    ("a wooden star", "a piece of old wood"),
    ("a warm scarf", "soft red wool"),
    ("a shell box", "shells from the beach"),
    ("a small song", "five happy notes"),
)
DISHES = (
    ("cake", "salt", "sugar"),
    ("soup", "pepper", "salt"),
    ("pie", "vinegar", "honey"),
    ("pudding", "mustard", "vanilla"),
    ("jam", "flour", "sugar"),
    ("porridge", "pepper", "cinnamon"),
)
WEATHER = ("rainy", "windy", "foggy", "snowy", "stormy", "cold")
