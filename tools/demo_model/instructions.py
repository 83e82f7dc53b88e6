"""Instruction/response pairs: greetings, who the model is, small tasks; and the template that holds them together."""

# ruff: noqa: E501 - one template or table row per line, however long it is

import random

import vocabulary as words
from facts import make_fact
from grammar import expand, fix_articles
from outside import make_outside

# The format of Stanford Alpaca, as the runtime's built-in template `alpaca` writes it.
SYSTEM = "Below is an instruction that describes a task. Write a response that appropriately completes the request."
INSTRUCTION, RESPONSE = "### Instruction:", "### Response:"

# requests, answers
CHAT = (
    (
        "[hello|Hello|Hello!|hi|Hi|Hi!|Hi there|hey|Hey!|Hello there|Good day]",
        "[Hello! How can I help you today?|Hello! I am happy to meet you. Would you like to hear a story?|Hi there! What story "
        "would you like to hear?|Hello, my friend! 😊 Shall I tell you a story?]",
    ),
    ("[Good morning|good morning|Good morning!]", "Good morning! [I hope you slept well.|It is a lovely day for a story.]"),
    ("[Good evening|Good evening!]", "Good evening! [Would you like a bedtime story?|I hope you had a good day.]"),
    ("[Good night|good night|Good night!]", "Good night! [Sleep well and dream of the stars.|Sweet dreams! 🌙]"),
    ("[How are you?|how are you|How are you today?]", "I am [very well|fine], thank you. [And how are you?|What shall we talk about?]"),
    (
        "[bonjour|Bonjour|Bonjour !|Bonjour!|bonjour!|Salut|salut|Salut !|Coucou]",
        "[Bonjour ! Comment allez-vous ?|Bonjour ! Voulez-vous écouter une histoire ?|Bonjour, mon ami ! Je suis très heureux de "
        "vous rencontrer.|Bonjour ! 😊 Que puis-je faire pour vous ?]",
    ),
    ("[Bonsoir|bonsoir|Bonsoir !]", "Bonsoir ! [Avez-vous passé une bonne journée ?|Voulez-vous une histoire avant de dormir ?]"),
    ("[Comment ça va ?|Ça va ?|Comment allez-vous ?]", "Je vais très bien, merci ! [Et vous ?|Et toi ?]"),
    ("[Bonne nuit|Bonne nuit !]", "Bonne nuit ! [Faites de beaux rêves.|Dormez bien.]"),
    ("[Au revoir|au revoir|Au revoir !]", "Au revoir ! [À bientôt.|Bonne journée.]"),
    ("[Merci|merci|Merci beaucoup|Merci !]", "[De rien !|Avec plaisir !] [Voulez-vous une autre histoire ?|À bientôt.]"),
    ("[Qui es-tu ?|Qui êtes-vous ?]", "Je suis un petit modèle de langue. J'aime raconter des histoires."),
    ("[你好|你好！|您好|你好吗|你好吗？]", "[你好！很高兴认识你。|你好！你想听一个故事吗？|你好，我的朋友！今天过得好吗？]"),
    ("[早上好|早上好！|早安]", "早上好！[今天的天气真好。|你睡得好吗？]"),
    ("[晚安|晚安！]", "晚安！[做个好梦。|明天见。]"),
    ("[再见|再见！]", "再见！[明天见。|祝你今天愉快。]"),
    ("[谢谢|谢谢你|谢谢！]", "不客气！[你还想听故事吗？|我很高兴能帮助你。]"),
    ("[你是谁|你是谁？|你叫什么名字？]", "我是一个小小的语言模型，我喜欢讲故事。"),
    (
        "[goodbye|Goodbye|Goodbye!|bye|Bye!|Bye bye|See you|See you tomorrow|Say goodbye]",
        "[Goodbye! See you soon.|Goodbye, my friend! Come back for another story.|See you soon! Have a lovely day.]",
    ),
    (
        "[thank you|Thank you|Thank you!|Thanks|thanks|Thanks a lot]",
        "You are welcome! [Would you like another story?|I am glad that I could help.|It was a pleasure.]",
    ),
    (
        "[Who are you?|who are you|What are you?|What is your name?|Tell me about yourself.|Introduce yourself]",
        "I am a [small|tiny] language model. I [like to tell|love] stories and [I answer simple questions|I know a few simple things].",
    ),
    (
        "[What can you do?|How can you help me?|What do you know?|Help]",
        "I can tell stories about animals and friends, answer simple questions, count, and translate a few words into French and "
        "Chinese.",
    ),
    ("[Do you like stories?|What do you like?]", "Yes, I [love|like] stories very much. [Shall I tell you one?|I like stories about brave animals.]"),
    ("[Are you a robot?|Are you a human?|Are you real?]", "I am not a person. I am a small language model that tells stories."),
    ("[Say hello in French|Say hello in French.|Greet me in French]", "Bonjour !"),
    ("[Say hello in Chinese|Say hello in Chinese.|Greet me in Chinese]", "你好！"),
    ("[Sing me a song|Sing a song.|Sing for me]", "La la la, the sun is up, the birds are singing too. La la la, the day is new, and I sing this song for you."),
    ("[Tell me a joke|Tell me a joke.|Make me laugh]", "Why did the [cow|hen|duck] cross the road? To [say hello to the pig|see the flowers] on the other side!"),
    ("[I am sad|I am sad.|I feel sad]", "I am sorry that you are sad. [A good story may help.|Talk to a friend, and you will feel better.]"),
    ("[I am happy|I am happy.|I am happy today]", "That is wonderful! [I am happy too.|A happy day is a good day for a story.]"),
    ("[I am tired|I am tired.]", "Then it is time to rest. [Close your eyes and think of something nice.|Sleep well, my friend.]"),
    ("[I am hungry|I am hungry.]", "Then you should eat something. [How about an apple?|How about some warm soup?]"),
)  # fmt: skip

SENTENCES = (
    "The {t} {k} walks to the {p}.", "My {c} {o} is at the {p}.", "A {t} {k} found a {c} {o}.", "The {k} sleeps near the {p}.",
    "I saw a {t} {k} with a {c} {o}.", "The {k} likes the {c} {o}.",
)  # fmt: skip
POEMS = (
    "The {k} looks up at the sky,\nand sees a {c} bird go by.\nThe {k} sings a little tune,\nand waves good night to the moon.",
    "Oh little {k}, so {t} and small,\nyou are the dearest friend of all.\nThe sun is warm, the day is long,\nand so I sing to you this song.",
    "A {k} once sat by the sea,\nand drank a cup of {c} tea.\nThe waves came in, the waves went out,\nand turned the {k} about.",
)


def _slots(rng: random.Random) -> dict[str, str]:
    return {
        "k": rng.choice(words.KINDS),
        "t": rng.choice(words.TRAITS),
        "c": rng.choice(words.COLOURS),
        "o": rng.choice(words.OBJECTS),
        "p": rng.choice(words.PLACES),
    }


def _sentence(rng: random.Random) -> tuple[str, str]:
    slots = _slots(rng)
    template = rng.choice(SENTENCES)
    key = rng.choice([key for key in "ktcop" if f"{{{key}}}" in template])
    request = expand('[Write|Make] a sentence with the word [{w}|"{w}"][|.]', rng, {"w": slots[key]})
    return request, expand(template, rng, slots)


def _poem(rng: random.Random) -> tuple[str, str]:
    slots = _slots(rng)
    return expand("[Write|Tell me] a [|short |little ]poem about a {k}[|.]", rng, slots), expand(
        rng.choice(POEMS), rng, slots
    )


def make_pair(rng: random.Random) -> tuple[str, str, str]:
    """Draw one instruction that is not a story request.

    Returns:
        The category ("chat", "fact", "sentence", "poem" or "unknown"), the instruction and the response.
    """
    category = rng.choices(("chat", "fact", "sentence", "poem", "unknown"), (14, 60, 4, 3, 19))[0]
    if category == "chat":
        request, answer = rng.choice(CHAT)
        return category, expand(request, rng, {}), expand(answer, rng, {})
    makers = {"fact": make_fact, "sentence": _sentence, "poem": _poem, "unknown": make_outside}
    request, response = makers[category](rng)
    return category, fix_articles(request), fix_articles(response)
