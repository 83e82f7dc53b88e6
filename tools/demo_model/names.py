"""Names of heroes and friends: thousands for training, drawn at random, and others that only the held-out prompts use.

A closed list of names is learned by heart. A name that was put together a moment ago can only be copied from the
request, piece by piece, so most names of the training are made up: syllables, pinyin, words, letters. The names in
`HELD_OUT_NAMES`, and every name whose hash says so, never occur in training.
"""

import hashlib
import random
from collections.abc import Iterable


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


ENGLISH = _words(
    """Biscuit Pepper Rocky Buddy Bailey Cooper Sadie Lucky Shadow Oliver Emily Charlotte Jack Harry George Amelia
    Sophie Thomas Jessica William Hannah Daniel Rosie Benji Ginger Oreo Mittens Whiskers Snowball Peanut Scout Winnie
    Ziggy Archie Tilly Murphy Penelope Jonathan Elizabeth Zoe"""
)
FRENCH = _words(
    """Chloé Camille Léa Hugo Gaston Margaux Antoine Élodie Benoît François Noémie Thibault Juliette Mathilde Jérôme
    Anaïs Guillaume Solène Amélie Étienne Capucine Bastien Océane Fabrice Delphine Loïc Gisèle Marcel Yvonne Aurélien"""
)
PINYIN = _words(
    "Mei Xiaoming Lihua Jingyi Haoran Yuxuan Zihan Weiwei Qiang Xiuying Fangfang Junjie Ruolan Tingting Shufen"
)
CHARACTERS = _words("小明 丽华 静怡 浩然 子涵 伟强 秀英 芳芳 俊杰 婷婷 豆豆 雪儿 美玲 阿宝 天天")
MADE_UP = _words(
    """Zorbin Plimsy Quandle Fizzwick Moxley Grumbo Tippalo Wexford Bramblo Nuzzle Dorvik Elspen Yarrick Vuna Sprocket
    Hibbity Ombra Kludge Jasprin Lumio Pazoo Torvald Snorri Bexley Crinkle Dwimmer Frodolf Gwen-Ado Huxo Izmir Jubilo
    Kestra Lozenge Mumbly Nebbish Oolong Prixi Quillon Rumble Squib Trundle Umberly Vexil Wobbles Xanthe Yodo Zibby
    Arlo-Bee Blip Chumley Dribbs Eeko Flumph Gribble Hoopla Inkwell Jorvo Knickers Lopsy Mazzo Noodle Orbit Pogo Quasar
    Razzle Sizzle Thimble Upton Vroom Whimsy Yip Zuzu Alabar Bondig Cormoro Delphox Ekko Fandral Gizzy Hespera Ilvane
    Jinx Koppel Luthien Merriwig Norby Ostara Pumble Quorra Riddick Sylvo Tazzle Uldor Vinca Wumpus Yuckle Zephyrin
    Abbernath Boffo Clunk"""
)
HELD_OUT_NAMES = ENGLISH + FRENCH + PINYIN + CHARACTERS + MADE_UP

GIRLS = _words(
    """Lily Mia Anna Lucy Ella Nina Clara Emma Ruby Daisy Molly Alice Poppy Ivy Luna Stella Hazel Nora Julia Maya Leila
    Amina Sara Tess Wendy Betty Dora Elsa Fiona Greta Iris Jenny Kate Lena Mabel Nelly Olive Penny Rita Sally Tina Vera
    Willa Zara Bella Cora Eva Flora Gina Heidi Jade Kira Lola Maggie Nadia Paula Rosa Suki Tara Violet Yuki Amy Bonnie
    Coco Dolly Edith Fern Honey Juno Marie Ling Grace Freya Millie Evie Isla Erin Megan Ines Lucie Manon Sylvie Odile"""
)
BOYS = _words(
    """Max Tom Ben Sam Leo Oscar Felix Toby Finn Charlie Noah Theo Milo Rex Bruno Simon Peter Paul Henry Arthur Louis
    Martin Nick Otto Pip Ralph Teddy Victor Walter Xavier Adam Basil Carl David Eddie Frank Gus Hector Igor Jasper Kai
    Luke Marco Ned Omar Patrick Robin Stan Tim Vito Will Zack Albert Barney Cosmo Dexter Ernie Freddy Harold Ivan Joey
    Kofi Lucas Monty Pierre Rusty Spot Ming Bo Ethan Logan Mason Duke Bear Zeus Rémi André René Gérard Jules Émile"""
)
# Ordinary words that people give to their animals.
WORDS = _words(
    """Button Cloud Marble Waffle Cookie Muffin Pickle Pumpkin Maple Willow Berry Cherry Clover Cocoa Copper Cotton
    Domino Dusty Echo Ember Feather Fluffy Fudge Gizmo Hunter Jelly Jingle Lemon Mango Midnight Misty Mocha Nugget Olive
    Patch Peaches Pebble Pixel Popcorn Puddle Puffin Rainbow Raisin River Rocket Rusty Salty Silver Smokey Snowy Socks
    Sparky Speckle Spice Storm Sugar Sunny Tango Thunder Toffee Truffle Turbo Velvet Walnut Wiggles Winter Zigzag Ziggy
    Acorn Almond Apollo Bandit Basil Blossom Bramble Bubbles Butter Candy Caramel Comet Cricket Crumble Dash Diamond"""
)
_ONSETS = _words(
    """b br bl c ch cl cr d dr f fl fr g gl gr h j k kl kn l m n p ph pl pr qu r s sc sh sk sl sm sn sp st sw t th tr tw
    v w wh x y z"""
)
_VOWELS = _words("a a a e e e i i i o o o u u ai ay ea ee ei eo ia ie oa oo ou ue")
_CODAS = ("", "", "", "", *_words("b ck d g l ll m mp n n n nd ng nt p r r rd rk rn rt s ss st t tt x z"))
_ENDINGS = _words(
    "y ie a o er le in on el us ix ette elle ine et ot ard ric bert mus ka na ra la ko to ly ny ley son ton"
)
_ACCENTS = ("é", "è", "ê", "ë", "î", "ï", "ô", "ç")
_PINYIN_STARTS = ("", *_words("b p m f d t n l g k h j q x zh ch sh r z c s y w"))
_PINYIN_ENDS = _words("a o e ai ei ao ou an en ang eng ong i ia ie iao iu ian in iang ing iong u ua uo ui uan un uang")
_CHINESE_FIRST = "小阿大老白金玉春云海志文建国晓思雨梦佳欣若林江青乐欢团圆可冰"
_CHINESE_SECOND = (
    "黑白红黄兰花毛朵圆福贵虎龙宝贝星月光辉琴珠莲菊梅竹松峰波涛磊鑫旺果糖米球点心奇妙平安康林雨晴云燕莉娜敏洁"
)
_CHINESE_ORDINARY = (
    "天日水火木春夏秋冬雨雪风草树石山河湖海门车书球汤面包饭鱼鸟马牛羊心手头花叶米糖果东南西北一二三五七八九十百千"
)
_TITLES = _words("Mr Mrs Miss Captain King Queen Princess Doctor Sir Lady Little Old")

HELD_OUT_PERCENT = 8


def is_held_out(name: str) -> bool:
    """Whether a name is kept for the held-out prompts."""
    digest = hashlib.sha256(name.encode()).digest()
    return name in HELD_OUT_NAMES or int.from_bytes(digest[:4], "big") % 100 < HELD_OUT_PERCENT


def gender_of(name: str) -> str:
    """Return "f" or "m"; made-up names follow their ending, so that a reader of the request can tell."""
    if name in GIRLS or name in BOYS:
        return "f" if name in GIRLS else "m"
    first = name.split()[0]
    if first in _TITLES[:10]:
        return "f" if first in ("Mrs", "Miss", "Queen", "Princess", "Lady") else "m"
    return "f" if name.endswith(("a", "e", "i", "ie", "ly", "ny", "é", "ine", "花", "兰", "红", "莲", "梅")) else "m"


def _syllables(rng: random.Random) -> str:
    count = rng.choices((1, 2, 3), (34, 60, 6))[0]
    name = ""
    for _ in range(count):
        coda = rng.choice(_CODAS) if name == "" or rng.random() < 0.4 else ""
        name += (rng.choice(_ONSETS) if rng.random() < 0.9 else "") + rng.choice(_VOWELS) + coda
    if rng.random() < 0.15:
        name = name[len(name) > 3 :]
    if rng.random() < 0.45:
        name = name.rstrip("aeiou") + rng.choice(_ENDINGS)
    if rng.random() < 0.12:
        vowels = [i for i, letter in enumerate(name) if letter in "eioc"]
        if vowels:
            i = rng.choice(vowels)
            same = {"e": _ACCENTS[:4], "i": _ACCENTS[4:6], "o": _ACCENTS[6:7], "c": _ACCENTS[7:]}[name[i]]
            name = name[:i] + rng.choice(same) + name[i + 1 :]
    return name


def _pinyin(rng: random.Random) -> str:
    syllable = rng.choice(_PINYIN_STARTS) + rng.choice(_PINYIN_ENDS)
    other = syllable if rng.random() < 0.2 else rng.choice(_PINYIN_STARTS) + rng.choice(_PINYIN_ENDS)
    return syllable if rng.random() < 0.25 else syllable + other


def _letters(rng: random.Random) -> str:
    return "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(3, 7)))


def usual_name(rng: random.Random) -> str:
    """Draw a name that people give to children, of the training side."""
    while True:
        name = rng.choice(rng.choice((GIRLS, BOYS)))
        if not is_held_out(name):
            return name


def _compound(rng: random.Random) -> str:
    second = make_name(rng, simple=True)
    if rng.random() < 0.5:
        return f"{rng.choice(_TITLES)} {second}"
    return make_name(rng, simple=True) + rng.choice("- ") + second


_pieces: tuple[list[str], list[str]] = ([], [])


def use_pieces(vocabulary: Iterable[str]) -> None:
    """From now on, put some names together from the pieces of a tokenizer.

    Otherwise the model would hardly ever copy the rare pieces, which held-out names have too.
    """
    vocabulary = [piece for piece in vocabulary if piece.isalpha() and len(piece) < 7]
    _pieces[0][:] = [piece for piece in vocabulary if piece.istitle() and piece[0] < "\u0100"]
    _pieces[1][:] = [piece for piece in vocabulary if piece.islower()]


def _joined(rng: random.Random) -> str:
    return rng.choice(_pieces[0]) + "".join(rng.choice(_pieces[1]) for _ in range(rng.choice((0, 1, 1, 2))))


def _one(rng: random.Random, simple: bool) -> str:
    if _pieces[0] and rng.random() < 0.6:
        return _joined(rng)
    makers = (usual_name, _syllables, _pinyin, lambda rng: rng.choice(WORDS), _letters, _compound)
    name = rng.choices(makers, (20, 48, 12, 10, 5, 0 if simple else 5))[0](rng)
    return name if name[0].isupper() else name[0].upper() + name[1:]


def make_name(rng: random.Random, held_out: bool = False, simple: bool = False) -> str:
    """Draw a name of one side of the split.

    Args:
        rng: source of the choice.
        held_out: the side.
        simple: one word only, without a title or a second name.
    """
    while True:
        name = _one(rng, simple)
        if (
            2 <= len(name) <= 18
            and any(is_held_out(part) for part in {name, *name.replace("-", " ").split()}) == held_out
        ):
            return name


def chinese_name(rng: random.Random, held_out: bool = False, rare: float = 0.0, ordinary: float = 0.0) -> str:
    """Draw a name of two or three Chinese characters.

    Args:
        rng: source of the choice.
        held_out: the side of the split.
        rare: the share of characters from the whole of Unicode's.
        ordinary: the share of characters that every text is full of.
    """

    def character(among: str) -> str:
        if ordinary and rng.random() < ordinary:
            return rng.choice(_CHINESE_ORDINARY)
        return chr(rng.randint(0x4E00, 0x9FA5)) if rng.random() < rare else rng.choice(among)

    while True:
        second = character(_CHINESE_SECOND)
        name = second * 2 if rng.random() < 0.3 else character(_CHINESE_FIRST) + second
        if rng.random() < 0.1:
            name += character(_CHINESE_SECOND)
        found = is_held_out(name) or any(known in name for known in CHARACTERS)
        if found == held_out:
            return name


def noun(rng: random.Random) -> str:
    """Make up a thing, such as "florb": one syllable or two, in lower case."""
    count = rng.choice((1, 1, 2))
    word = "".join(rng.choice(_ONSETS) + rng.choice(_VOWELS[:14]) + rng.choice(_CODAS[4:]) for _ in range(count))
    return word + rng.choice(("", "", "", "et", "le", "y"))
