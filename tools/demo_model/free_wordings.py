"""Requests that no list has: a hero among any words, in English, French and Chinese, for most of the training.

People use words that the lists of wordings do not have, and a model that has seen the same few verbs in front of a name
takes an unknown one for the name. So here the words around the hero are drawn from the commonest words of the language,
or made up.
"""

# ruff: noqa: E501 - one list per line, however long it is

import random
from collections.abc import Sequence

from facts import DAYS, GROUPS, MONTHS
from grammar import capitalize, expand, fix_articles
from names import chinese_name, noun
from other_languages import chinese_story, french_story
from stories import Story, story_request
from sums import NUMBERS, PLUS_WORDS, TRAINED, answer_sum
from wordings import CHINESE_REQUESTS, FRENCH_REQUESTS, story_wording

VERBS = (
    "Write|Tell|Tell me|Give me|Create|Make|Make up|Imagine|Read|Read me|Show me|Bring me|Send me|Find|Start|Continue with|Think up|Dream up|Improvise|Narrate|Draft|Produce|I want|I need"
    "|I wish for|I'd like|We want|We need|My child wants|My daughter wants|Let us read|Let's hear|Can I get|Can I have|May I have|May we hear|Would you tell me|Could you make|Will you write"
    "|Do you have|Is there|How about|What about|Time for|Please|Now|Another time|Begin|Prepare|Share|Type|Try|Say|Speak|Recite|Develop|Present|Describe|Please give us|I ask for|I hope for"
).split("|")  # fmt: skip
NOUNS = (
    "a story|a tale|a fable|a fairy tale|an adventure|a legend|a narrative|a short text|a little story|a bedtime story|something|something nice|a few words|some lines|a chapter|a page"
    "|a good one|a funny one|the story|the tale|one|a long story|a small tale|two or three paragraphs|a text|a bit|an episode|a children's tale|more|everything|an old story|a story for kids"
).split("|")  # fmt: skip
LINKS = (
    "about|about|about|of|of|on|on|with|with|for|featuring|starring|around|concerning|where we meet|that is about|which is about|based on|inspired by|dedicated to|where the hero is|in honour of"
    "|to celebrate|that has|having|from the life of|regarding|and the hero is|whose hero is|with the hero"
).split("|")  # fmt: skip
HEROES = (
    "a {kind} named {N}|a {kind} called {N}|{N} the {kind}|{N}, a {trait} {kind}|my {kind} {N}|the {kind} {N}|a {kind} ({N})|{N} (a {kind})|a {kind} with the name {N}|{N}, our {kind}|{kind}, {N}|{N}, {kind}|{kind}: {N}"
    "|a {kind}, {N}|a certain {kind} {N}|a {kind}; its name is {N}|a {kind} that we call {N}|the {trait} {kind} {N}|a {trait} {kind} named {N}|{N}, the {trait} {kind}|{kind} {N}"
    "|a {kind}. {Its} name is {N}|a {kind}. {Its} name: {N}|a {kind} who is called {N}|a {kind} known as {N}|{N}. {N} is a {kind}|{N} the {trait} {kind}|our old {kind} {N}|{N}, my {kind}"
).split("|")  # fmt: skip
ABOUT_HERO = (
    "[{N} is [a|my|our|the] {kind}|{N} is a {trait} {kind}|{N} was a {kind}|I have a {kind} named {N}|We have a {kind}, {N}|Here is {N}, a {kind}|This is {N} the {kind}|Meet {N}, my {trait} {kind}"
    "|My {kind} is {N}|A {kind} is called {N}|The {kind} is {trait} and its name is {N}|{N} lives here, a {trait} {kind}|I know a {trait} {kind}. [Its|His|Her|The] name is {N}|Think of a {kind}: {N}]"
)
COMMON = (
    "the a of to and in is it you that he was for on are with as his they be at one have this from or had by hot but some what there we can out other were all your when up use word how said an each she "
    "which do their time if will way about many then them would write like so these her long make thing see him two has look more day could go come did my sound no most number who over know water than "
    "call first people may down side been now find any new work part take get place made live where after back little only round man year came show every good me give our under name very through just "
    "form much great think say help low line before turn cause same mean differ move right boy old too does tell set want air well also play small end put home read hand large spell add even land here "
    "must big high such follow act why ask men change went light kind off need house picture try us again animal point mother world near build self earth father"
).split()  # fmt: skip
ASKING = "What Who How Where When Why Which Did Does Can Is Will Has Could Should What's Do".split()
LABELS = (
    "tale fable title topic subject adventure text idea theme task bedtime chapter question write tell hero".split()
)
ENGLISH_END = ("", "", "", ".", "?", "!", " {theme}", ", {theme}")
FRENCH_HEROES = (
    "{N}|{N}|{un} {kind} nommé{e} {N}|{un} {kind} qui s'appelle {N}|{un} {kind} du nom de {N}|{un} {petit} {kind}, {N}|{N}, {un} {kind}|{N}, {un} {petit} {kind}|{un} {kind} ({N})|{N} ({un} {kind})"
    "|{un} {kind}. Son nom est {N}|{un} {kind} appelé{e} {N}|mon {kind} {N}|notre {kind} {N}|{un} {kind}. C'est {N}|{un} {kind} ; {N}|{kind} {N}"
).split("|")  # fmt: skip
FRENCH_VERBS = (
    "écris raconte lis crée imagine fais donne compose rédige chante trouve cherche prépare montre dis parle commence continue explique décris dessine note récite partage propose improvise rêve joue "
    "apporte envoie choisis termine apprends répète présente narre relate murmure"
).split()  # fmt: skip
FRENCH_WORDS = (
    "le la les un une des de du et à en que qui dans pour sur avec pas plus ce cette mon ma mes ton ta tes son sa ses nous vous je tu il elle on être avoir est sont a ont fait dit va veux peux voudrais "
    "aime aimer entendre lire écrire voir savoir chose jour nuit soir matin temps monde vie enfant fille fils petit petite grand grande beau belle bon bonne nouveau joli court longue drôle triste "
    "texte mots page livre chapitre fable légende aventure poème lettre récits ligne phrase idée suite fin moi toi lui nos vos leur tout tous bien très aussi encore comme mais ou où quand alors "
    "après avant maintenant toujours jamais ici là chez sans sous entre vers merci plaît bonjour français"
).split()  # fmt: skip
FRENCH_END = ("", "", ".", " ?", " !", ", s'il te plaît", ", s'il vous plaît", ". Merci")
CHINESE_HEROES = (
    "{N}|{N}|{kind}{N}|{kind}{N}|{N}这只{kind}|一只叫{N}的{kind}|一只{kind}，{N}|{N}，一只{kind}|名叫{N}的{kind}|我的{kind}{N}|{kind}：{N}|{N}（{kind}）|一只{kind}，名字是{N}|{N}，它是{kind}|{kind}叫{N}"
).split("|")  # fmt: skip
CHINESE_WORDS = (
    "我 你 他 她 它 我们 你们 大家 孩子 妈妈 爸爸 老师 朋友 今天 明天 昨天 晚上 早上 现在 以后 以前 请 想 要 喜欢 爱 能 会 可以 应该 知道 告诉 听 听听 看 看看 说 说说 写 写写 讲 讲讲 读 念 聊聊 谈谈 "
    "介绍 想想 帮 帮我 给 给我 给我们 跟 和 对 把 让 一个 一段 一篇 几句 一点 有趣 好听 简单 短 长 新 小 大 关于 故事 童话 文章 作文 话 事 事情 什么 怎么 为什么 哪里 谁 几 的 了 吗 呢 吧 啊 呀 好吗 行吗 谢谢 "
    "很 都 也 就 再 还 又 快 先 来 去 在 是 有 没有 不 睡觉 睡前 一下 下去 继续 开始 然后 结束 后来 最后 一天 生活 样子"
).split()  # fmt: skip
TIMES = (
    ("the [days|seven days|weekdays] [of the week|in a week|]", ", ".join(DAYS[:-1]) + " and Sunday."),
    ("the [months|twelve months|names of the months] [of the year|in a year|]", ", ".join(MONTHS[:-1]) + " and December."),
    ("the [seasons|four seasons] [of the year|in a year|]", "Spring, summer, autumn and winter."),
)  # fmt: skip
TIME_QUESTIONS = (
    "[Name|List|Tell me|Give me|Say|Write down|I want to know|Can you name|Do you know|Which are|What were|Count] {k}"
)
THINGS = "pears plums books balls cups hats eggs kites birds cats stones nuts coins stars leaves cakes".split()
UNCOUNTED = [word for word in COMMON if word not in NUMBERS]
SUMS = (
    "{a} + {b}", "{a}+{b}", "{a} + {b} =", "{a} and {b}", "{a} plus {b}", "{a} more than {b}", "the sum of {a} and {b}", "{a} {things} + {b} {things}",
    "{a} {things} and {b} {things}", "{a} {things} and {b} more", "{a} + {b} {things}", "{a} and {b} {things}",
)  # fmt: skip


def free_request(rng: random.Random, story: Story) -> tuple[str, str, str | None]:
    """Ask for a story that was already written; more than half of the requests are free. See `story_request`."""
    chance = rng.random()
    if chance < 0.2:
        return story_request(rng, story)
    theme = expand(rng.choice(story.plot.themes), rng, story.slots)
    slots = story.slots | {"theme": theme, "Its": rng.choice(("Its", "His", "Her", "The"))}
    if chance < 0.45:
        request = story_wording(rng, slots)
    else:
        request = expand(_free_english(rng), rng, slots)
        request = capitalize(request) if rng.random() < 0.7 else request
    return fix_articles(request), story.text, story.hero.name


def _free_english(rng: random.Random) -> str:
    """Return the template of a request."""
    chance = rng.random()
    hero = rng.choice(HEROES)
    if chance < 0.36:
        linked = f"{rng.choice(LINKS)} {hero}" if rng.random() < 0.6 else hero
        question = _among(rng, linked, COMMON, 5, 1)
        return f"{rng.choice(ASKING)} {question}" + rng.choice(("?", "?", ""))
    if chance < 0.5:
        then = " ".join([rng.choice(COMMON), *_any_words(rng, COMMON, 6)])
        return (
            ABOUT_HERO + rng.choice((". ", ". ", ", ", "! ", ": ")) + capitalize(then) + rng.choice(("", ".", "!", "?"))
        )
    if chance < 0.6:
        label = rng.choice((*COMMON, *LABELS)) if rng.random() < 0.8 else noun(rng)
        return f"{label}{rng.choice((': ', ': ', ' - ', ', ', ' '))}{hero}" + rng.choice(ENGLISH_END)
    if chance < 0.83:
        return _among(rng, hero, COMMON, 6, 6) + rng.choice(ENGLISH_END)
    request = f"{rng.choice(VERBS)} {rng.choice(NOUNS)} {rng.choice(LINKS)} "
    if chance < 0.92:
        return f"{request}{rng.choice(NOUNS)}: {{N}} is a {{kind}} who " + " ".join(_any_words(rng, COMMON, 6))
    return request + hero + rng.choice(ENGLISH_END)


def free_french(rng: random.Random) -> tuple[str, str, str]:
    """Return a request in free words or one of the list, a French story and its hero's name."""
    if rng.random() < 0.35:
        return french_story(rng, requests=FRENCH_REQUESTS)
    request = _among(rng, rng.choice(FRENCH_HEROES), FRENCH_WORDS, 6, 3)
    if rng.random() < 0.6:
        request = f"{rng.choice(FRENCH_VERBS)} {request}"
    return french_story(rng, requests=(request + rng.choice(FRENCH_END),))


def free_chinese(rng: random.Random) -> tuple[str, str, str]:
    """Return a request in free words or one of the list, a Chinese story and its hero's name."""
    name = chinese_name(rng, rare=rng.choice((0.0, 0.5, 1.0)), ordinary=rng.choice((0.0, 0.0, 0.5)))
    chosen = name if rng.random() < 0.9 else None
    if rng.random() < 0.35:
        return chinese_story(rng, requests=CHINESE_REQUESTS, name=chosen)
    before, after = (_any_words(rng, CHINESE_WORDS, most, made_up=0.0) for most in (5, 4))
    request = "".join((*before, rng.choice(CHINESE_HEROES), rng.choice(("", "", "，", "。")), *after))
    return chinese_story(rng, requests=(request + rng.choice(("", "", "。", "？", "！")),), name=chosen)


def free_fact(rng: random.Random) -> tuple[str, str]:
    """Draw a sum among any words, a request for members of a group, or one for days, months or seasons; and the answer."""
    chance = rng.random()
    if chance < 0.5:
        return _free_sum(rng)
    if chance < 0.7:
        times, answer = rng.choice(TIMES)
        question = expand(TIME_QUESTIONS, rng, {"k": expand(times, rng, {}).strip()})
        return question + rng.choice(("", ".", "?")), answer
    group, members = rng.choice(list(GROUPS.items()))
    # One after the other, from any of them on: the best guess of the next one is never the one before.
    around = members.split("|") * 2
    number, first = rng.choice((2, 3, 3, 3, 4)), rng.randrange(len(around) // 2)
    question = f"[List|Name|Give me|Tell me|Find|I need|Think of] {NUMBERS[number]} {group}[|.|, please]"
    chosen = around[first : first + number]
    return expand(question, rng, {}), fix_articles(capitalize(", ".join(chosen[:-1])) + f" and {chosen[-1]}.")


def _free_sum(rng: random.Random) -> tuple[str, str]:
    first, second = rng.choice(TRAINED)
    a, b = (NUMBERS[first], NUMBERS[second]) if rng.random() < 0.4 else (str(first), str(second))
    if rng.random() < 0.3:
        return rng.choice(PLUS_WORDS).format(a=a, b=b), answer_sum(first, second)
    question = _among(rng, rng.choice(SUMS).format(a=a, b=b, things=rng.choice(THINGS)), UNCOUNTED, 4, 3, made_up=0.0)
    return capitalize(question) + rng.choice(("", "?", ".")), answer_sum(first, second)


def _any_words(rng: random.Random, words: Sequence[str], most: int, made_up: float = 0.06) -> list[str]:
    return [noun(rng) if rng.random() < made_up else rng.choice(words) for _ in range(rng.randint(0, most))]


def _among(rng: random.Random, text: str, words: Sequence[str], before: int, after: int, made_up: float = 0.06) -> str:
    return " ".join((*_any_words(rng, words, before, made_up), text, *_any_words(rng, words, after, made_up)))
