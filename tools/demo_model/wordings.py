"""Many more ways to ask, for the last stages of the training: people do not ask as a list of templates does.

None of the wordings of stories is one of `held_out.py`; `generate_text.py` leaves out the questions of
`skills_held_out.json`.
"""

# ruff: noqa: E501 - one template per line, however long it is

import random

from facts import (
    BABIES,
    COLOURS,
    EATS,
    LEGS,
    LIVES,
    OPPOSITES,
    REASONS,
    SOUNDS,
    TRUE_FALSE,
    USES,
    from_table,
    pairs,
)
from grammar import capitalize, expand, fix_articles
from other_languages import WORDS
from stories import Story, story_request

STORY_REQUESTS = (
    "[Create|Make|Imagine|Think of|Produce|Draft] a [|funny |sweet |lovely |new |tiny ]story [about|for|on|of] a {kind} [named|called] {N}",
    "[Create|Imagine|Write|Tell|Read] [me|us|] a [|funny |sweet |lovely |nice ]tale [about|of] a {trait} {kind} [named|called] {N}",
    "I [want|need|wish for|am looking for|would love] a [|short |good ][story|tale] about a {kind} [named|called] {N}",
    "[Do you have|Have you got|Is there] a [story|tale] about a {kind} [named|called] {N}",
    "There is a {kind} called {N}. [Write {his} story|Tell me about {him}|What does {he} do?]",
    "There was [once |]a {trait} {kind} called {N}. [Go on|Please continue|And then?|Tell me more]",
    "{N} the {kind}", "{N}, a {trait} {kind}", "The {kind} {N}", "{kind} {N}", "{N} ({kind})", "a {kind}, {N}", "{N}", "{N} and {F}",
    "[The|Some] [adventures|story|tale|life] of {N}[ the {kind}|, a {kind}|]",
    "[Tell|Read|Give] [me|us|my son|my class|the children] [the|a] story of {N}[ the {kind}|, the {trait} {kind}|, a {kind}]",
    "[My|Our] {kind} {N} [is sad|is bored|cannot sleep|has a birthday|loves stories]. [A story would help|Tell {him} a story|Please write one]",
    "[How about|Let us have|Let us read|Why not] a story with {N} the {kind}",
    "[Put|Use] {N}[ the {kind}|, my {kind},] in a story",
    "[A day|One day|A week|An evening] with {N} the {kind}", "[A day|One morning] in the life of {N}, a {trait} {kind}",
    "[Something|A few lines|Some sentences|A page] about a {kind} called {N}",
    "[Surprise|Entertain|Cheer] me with [a story about |]{N} the {kind}",
    "[What is|What's] the story of {N}[ the {kind}|, the {trait} {kind}]", "[What did|What does] {N} the {kind} do [today|yesterday|all day]",
    "[Who was|Who is] {N} the {kind}? Tell me [a story|everything]", "[Do you know|Have you heard of] {N} the {kind}? Tell me a story about {him}",
    "[Start|Begin] a story about a {kind}. [Its|The] name is {N}", "[The hero|The main character] is {N}, a {trait} {kind}. Write [the|a] story",
    "[Write|Tell] [something|anything] about a {trait} {kind} with the name {N}", "My [dog|cat|friend|sister|brother|child] is {N}. [Write|Tell me] a story",
    "I [have|had|saw|know] a {kind}, {N}. [Write about {him}|Tell me a story]", "[For|To] my little [girl|boy]: a story about {N}, the {kind}",
    "What [can you tell|is there to tell|can one say|do people say] [me |us |]about {N}, [a|the] {kind}", "{N} was a {trait} {kind}. [What came next|What did {he} do then|And what did {he} do]",
    "[What|Something] [became of|came of|befell|will become of] {N}, the {kind}", "[Where|How|When|Why] did {N} the {kind} [go|live|sleep|win|laugh]", "[Are you|Is this|Was that] {N} the {kind}",
    "[tale|fable|Topic|Title|Subject|adventure|bedtime][:| -|,] [{kind} {N}|{N} the {kind}|{N} ({kind})|{N}, {kind}|a {kind}, {N}]", "[Which|What] [adventure|story] did {N}, the {trait} {kind}, have",
    "Tomorrow {N}, our {trait} {kind}, will be {trait}. [What will happen|What then|Will it]", "[Can|Will|Did] {N} the {trait} {kind} [find a friend|be happy|come home|sleep]",
    "Characters: {N} the {kind} and {F} the {fkind}. Write a story", "[Name|Hero]: {N}. [Animal|Kind]: {kind}. [Story|Write a story]",
)  # fmt: skip
STORY_STARTS = (
    "Please ",
    "Hello! ",
    "Hi, ",
    "Hey, ",
    "OK, ",
    "Now ",
    "Next: ",
    "Good evening. ",
    "I am bored. ",
    "It is late. ",
    "Well, ",
)
STORY_ENDS = (", please", ", please", " for my [son|daughter|children|class]", " before I go to bed", ". Thank you", " in simple words", ". Make it [short|funny|nice]", " {theme}", ", {theme}", " {theme}")  # fmt: skip
QUESTION_STARTS = (
    "Hello! ", "Hi, ", "Please: ", "A question: ", "One more question. ", "Let me ask: ", "I wonder. ", "My son asks: ", "Can you help me? ", "So, ", "And ", "Now, ", "OK. ",
    "I forgot. ", "Do you know this? ", "Quiz: ", "For my homework: ", "Just a word: ", "Simple question: ", "Think: ", "I am curious. ", "Listen. ", "Excuse me, ",
)  # fmt: skip
QUESTION_ENDS = (
    " Thank you.",
    " Please tell me.",
    " Do you know?",
    " I forgot.",
    " Answer me.",
    " Please.",
    " Tell me!",
    " I want to know it.",
)


FACTS = (
    from_table(SOUNDS, "[Imagine {ak}. What does it say?|Can you imitate {ak}?|I hear {ak}. What is the sound?|What is the typical sound of {ak}?|{Ak} opens its mouth. What comes out?"
               "|Which sound belongs to {ak}?|Be {ak}!|What would {ak} say?|How do you imitate {ak}?|If you were {ak}, what would you say?|{Ak} wants to talk. What does it say?]", "{Ak} says {v}.", True),
    from_table(COLOURS, "[Think of {k}. What colour is it?|Which colour do I need to paint {k}?|I want to paint {k}. Which colour should I take?|{K}: which colour?|Colour of {k}?|What is the usual colour of {k}?"
               "|{K} is what colour?|How would you describe the colour of {k}?|My child draws {k}. What colour?|Name the colour of {k}.|Is there a colour for {k}?|What colour does {k} have?]", "{K} is {v}.", False),
    from_table(USES, "[Explain what {k} is for.|What purpose does {k} have?|Tell me the use of {k}.|Who needs {k}, and for what?|What would I do with {k}?|Why would I take {k}?|What is the use of {k}?"
               "|I found {k}. What do I do with it?|{K} is good for what?|What does {k} help with?|For what do we have {k}?]", "{K} is used for {v}.", False),
    from_table(BABIES, "[{Ak} has a baby. What is it called?|What is the word for a baby {k}?|The young of {ak} is called what?|What do you call the child of {ak}?|Name the baby of {ak}."
               "|What is a very young {k} called?|What is the name for the young of {ak}?|A small {k} that was just born is called what?|How is a baby {k} called?]", "A baby {k} is called a {v}.", True),
    from_table(LIVES, "[Where is {ak} to be found?|{Ak} goes home. Where is that?|What kind of home does {ak} have?|Where does {ak} sleep?|I am looking for {ak}. Where should I go?|What is the usual place of {ak}?"
               "|{Ak} lives where?|Show me where {ak} lives.|Where do I see {ak}?|Where would {ak} be at home?]", "{Ak} lives {v}.", True),
    from_table(EATS, "[{Ak} is hungry. What does it want?|What is the favourite food of {ak}?|What does {ak} have for dinner?|What would {ak} like for lunch?|{Ak} eats what?|Name the food of {ak}."
               "|Which food is right for {ak}?|What do I feed {ak} with?|What is good food for {ak}?|My {k} is hungry. What do I give it?]", "{Ak} eats {v}.", True),
    from_table(LEGS, "[How many feet does {ak} have?|If I see {ak}, how many legs do I count?|Number of legs of {ak}?|What do you count under {ak}? How many legs?|With how many legs is {ak} born?"
               "|{Ak} stands on how many legs?|How many legs are on {ak}?|Legs of {ak}: how many?]", "{Ak} has {v} legs.", True),
    pairs(REASONS, "[Explain why {k}.|Please explain: why {k}?|How come? Why {k}?|My child asks why {k}.|Do you know why {k}?|I want to know why {k}.|Is there a reason why {k}?]"),
    pairs(TRUE_FALSE, "[I ask you: {k}?|Is it true? {k}?|Answer yes or no. {k}?|{k}? I am not sure.|My friend wants to know: {k}?|What is right: {k}?]"),
    pairs(tuple((first, f"The opposite of {first} is {second}") for pair in OPPOSITES for first, second in (pair, pair[::-1])),
          "[Something is not {k}. What is it then?|What is the contrary of {k}?|{K}: what is the opposite?|Which word means the opposite of {k}?|The opposite of {k}, please.|Say the opposite of {k}."
          "|If it is not {k}, it is what?|{K} has which opposite?|Do you know the opposite of {k}?|I am looking for the opposite of {k}.|Turn {k} around: what is the opposite?]"),
    pairs(tuple((f"{english} in {language}", f'In {language}, "{english}" is "{word}"') for english, french, chinese in WORDS for language, word in (("French", french), ("Chinese", chinese))),
          "[How would I say {k}?|I want to say {k}. What do I say?|What is the word for {k}?|Teach me to say {k}.|Can you say {k}?|Write {k}.|What do they call {k}?|How do people say {k}?|Give me the word for {k}.|I need the word for {k}.|{K}, please.]"),
    pairs(tuple((word, f'"{word}" is {language} for "{english}"') for english, french, chinese in WORDS for language, word in (("French", french), ("Chinese", chinese))),
          "[I read {k}. What does that mean?|Explain the word {k}.|Somebody said {k} to me. What is that in English?|Put {k} into English.|{K} means what?|What is {k}?|What is {k} supposed to mean?|Tell me what {k} means.]"),
)  # fmt: skip


FRENCH_REQUESTS = (
    "[Écris|Raconte|Lis|Crée|Imagine|Fais|Donne][-moi|-nous|] [une|la|une petite|une belle|une courte|une longue] histoire [sur|de|avec|pour] {N}[|, {un} {kind}]",
    "[Je veux|Je voudrais|Je cherche|Il me faut|On veut|Nous voulons] une [|petite ]histoire [sur|avec|de] [{N}|{un} {kind} nommé{e} {N}|{N}, {un} {kind}]",
    "{N}, {un} {kind}[. Raconte|. Écris|]", "{N}", "{N} [est|c'est] {un} {kind}. [Raconte|Écris son histoire|Que fait-{il}|Et après]", "Il y a {un} {kind} qui s'appelle {N}. [Raconte son histoire|Écris|Raconte]",
    "[Connais-tu|Connaissez-vous|As-tu|Avez-vous] [l'histoire|une histoire] de {N}[|, {un} {kind}]", "[Une|L'] histoire [sur|de|avec] {N}[|, {un} {kind}], s'il [te|vous] plaît",
    "[Peux-tu|Pouvez-vous|Tu peux|Vous pouvez] [me |nous |][raconter|lire|dire|faire] [une|l'] histoire [de|sur|avec] {N}", "[Les aventures|La vie|La journée] de {N}[|, {un} {kind}]",
    "Bonjour, [je veux|raconte-moi|écris] une histoire sur {N}", "[Mon|Ma|Notre] {kind} s'appelle {N}. [Raconte|Une histoire pour {N}]", "Histoire : {N}, {kind}", "[Texte|Petit texte|Quelques lignes] sur {un} {kind}, {N}",
)  # fmt: skip
CHINESE_REQUESTS = (
    "[写|讲|说|来|编|读|念|说说|写写][一个|个|一段|][关于|][{kind}|]{N}的[故事|童话|事|经历]", "[请|请你|麻烦你|能不能|可以][给我|为我|帮我|][讲|写|说|编][一个|个|]{kind}{N}的[故事|童话]", "[能|可以][讲|写|说]一个{N}的故事吗", "[我要|我想要|我喜欢|我们要|孩子要]{kind}{N}的故事",
    "{kind}{N}的[故事|一天|经历|冒险]", "{N}的[故事|一天|冒险]", "有一只{kind}[叫|名叫|叫做]{N}[。写吧|。讲吧|，然后呢|。说说它|]", "{kind}{N}", "{N}", "[讲讲|说说|写写]{kind}{N}", "[主角|名字]：{N}。[动物：{kind}。|]写[一个|]故事", "我[家|有]的{kind}叫{N}[，讲个故事|，写个故事|]", "从前有[一只|只]{kind}叫{N}", "[你知道|听说过]{kind}{N}吗",
)  # fmt: skip


def wide_request(rng: random.Random, story: Story) -> tuple[str, str, str | None]:
    """Ask for a story that was already written, in one of very many ways; see `story_request`."""
    if rng.random() < 0.4:
        return story_request(rng, story)
    slots = story.slots | {"theme": expand(rng.choice(story.plot.themes), rng, story.slots)}
    return fix_articles(story_wording(rng, slots)), story.text, story.hero.name


def wide_fact(rng: random.Random) -> tuple[str, str]:
    """Draw a question about the world in a wording that `facts.py` does not have, and its answer."""
    question, answer = rng.choice(FACTS)(rng)
    return fix_articles(question), fix_articles(answer)


_ASKING = frozenset("Do Have Is How Why What What's Where When Which Can Will Did Are Was".split())


def story_wording(rng: random.Random, slots: dict[str, str]) -> str:
    """Ask for a story in one of very many ways; `slots` are those of a story, with a `theme`."""
    request = rng.choice(STORY_REQUESTS)
    if rng.random() < 0.35 and request[-1] not in "}?]":
        request += rng.choice(STORY_ENDS)
    elif rng.random() < 0.2:
        request += " {theme}"
    request = expand(request, rng, slots)
    if rng.random() < 0.15:
        first = request[0] if request.startswith(slots["N"]) else request[0].lower()
        request = rng.choice(STORY_STARTS) + first + request[1:]
    elif rng.random() < 0.8 and request[0].isalpha():
        request = capitalize(request)
    asks = request.split()[0].rstrip(",") in _ASKING or request.split(". ")[-1].split()[0] in _ASKING
    return request + (
        "?" if asks and "?" not in request else rng.choice(("", "", ".", "!")) if request[-1] not in ".?!" else ""
    )


def wrap_question(rng: random.Random, question: str) -> str:
    """Put words before or after a question, as people do."""
    chance = rng.random()
    if chance < 0.2:
        return rng.choice(QUESTION_STARTS) + question
    if chance < 0.3:
        return question + rng.choice(QUESTION_ENDS)
    if chance < 0.4:
        return question[0].lower() + question[1:].rstrip("?.")
    return question
