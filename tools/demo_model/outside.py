"""Questions about what lies outside the little world, and the answer to all of them: "I don't know that."

The questions of `skills_held_out.json` were written by somebody who had not seen this file, and the other way round.
"""

# ruff: noqa: E501 - one list per line, however long it is

import random

from grammar import capitalize, expand
from names import make_name, noun

ANSWER = "I don't know that. [I am only a small model, but I can tell you a story.|My world is small, but it is full of stories.|Would you like to hear a story?|Ask me for a story, or about animals and colours.]"
FRENCH_ANSWER = "Je ne sais pas. [Mais je peux raconter une histoire.|Mon monde est petit.]"
CHINESE_ANSWER = "我不知道。[不过我可以讲一个故事。|我的世界很小。]"

_LISTS = {
    "country": "France|Germany|China|America|Italy|Japan|Russia|Spain|India|Brazil|Canada|Mexico|Egypt|Kenya|Norway|Poland|Turkey|Greece|Peru|Chile|Sweden|Portugal|Vietnam|Korea|Australia|Ireland|Cuba|Nigeria|Finland|Iceland|England|Scotland|Hungary|Austria",
    "city": "London|Paris|Berlin|Rome|Madrid|Tokyo|Moscow|New York|Chicago|Beijing|Shanghai|Cairo|Sydney|Vienna|Prague|Boston|Lisbon|Athens|Dublin|Oslo|Mumbai|Toronto|Seattle|Geneva|Lyon|Munich",
    "person": "Einstein|Napoleon|Shakespeare|Mozart|Beethoven|Newton|Darwin|Cleopatra|Lincoln|Gandhi|Picasso|Plato|Caesar|Columbus|Galileo|Churchill|Tolstoy|Bach|Homer|Marie Curie|the president|the pope|the prime minister|Elvis|Messi|Tesla|Aristotle|Confucius",
    "science": "gravity|electricity|an atom|a molecule|DNA|photosynthesis|evolution|a black hole|the big bang|energy|magnetism|a virus|a protein|relativity|radiation|a chemical reaction|oxygen|carbon|hydrogen|plasma|entropy|a neutron|bacteria|the nervous system|an enzyme|a comet|lightning|an earthquake|a volcano|the ozone layer",
    "topic": "history|physics|chemistry|politics|economics|philosophy|mathematics|algebra|geometry|biology|religion|law|medicine|football|basketball|tennis|chess|the stock market|taxes|inflation|democracy|war|the government|art|architecture|psychology|statistics|machine learning|climate change|marketing|insurance|grammar|opera|poker",
    "tech": "a computer|the internet|a smartphone|an email|a website|Python|Java|Linux|Windows|a database|a server|a printer|an algorithm|a password|a browser|wifi|a laptop|a compiler|an API|a spreadsheet|Bluetooth|a robot arm|an operating system|JavaScript|a neural network|a hard disk|a video game|an app",
    "object": "a car|a plane|a rocket|a nuclear reactor|a washing machine|a fridge|a television|a camera|a truck|a tractor|an engine|a battery|a microwave|a telescope|a bank account|a mortgage|a passport|a credit card|a violin|a guitar|a piano|a helicopter|a submarine|a satellite|a solar panel|a bicycle pump",
    "dish": "lasagna|sushi|paella|a curry|risotto|tiramisu|a burrito|pizza dough|an omelette|mayonnaise|beef stew|guacamole|hummus|cheesecake|ramen|fried rice|a steak",
    "space": "Mars|Jupiter|Saturn|Venus|Mercury|Pluto|Neptune|the Milky Way|Andromeda|the space station",
    "illness": "a headache|the flu|diabetes|cancer|asthma|an allergy|a broken leg|malaria|insomnia|anxiety|back pain|high blood pressure",
    "rare": "serendipity|ubiquitous|ephemeral|paradigm|hypothesis|ambiguous|empathy|sovereignty|irony|metaphor|nostalgia|bureaucracy|catalyst|dilemma|infrastructure|photovoltaic|jurisprudence|onomatopoeia",
    "unit": "kilometres|miles|kilograms|pounds|litres|gallons|degrees|metres|euros|dollars|inches|bytes|watts",
    "event": "the First World War|the French Revolution|the Olympic Games|the World Cup|the moon landing|the Renaissance|the Roman Empire|the last election|the Cold War|the Titanic|the Great Depression|the industrial revolution|the Middle Ages",
    "work": "Hamlet|the Mona Lisa|the Odyssey|Don Quixote|the Bible|Star Wars|Titanic|the Ninth Symphony|War and Peace|Romeo and Juliet|Frankenstein|the Iliad|Les Misérables",
    "body": "the heart|the liver|the brain|the lungs|the kidneys|the stomach|the skin|the bones|the spine",
}  # fmt: skip
_THINGS = {name: tuple(row.split("|")) for name, row in _LISTS.items()}

QUESTIONS = (
    "Who is the president of {country}?", "What is the capital of {country}?", "How many people live in {country}?", "How far is it from {city} to {city}?",
    "What language do they speak in {country}?", "What is the currency of {country}?", "Which river flows through {city}?", "Where is {city}?",
    "How big is {country}?", "What is the flag of {country}?", "Is {city} the capital of {country}?", "What is the population of {city}?",
    "How do I get to {city}?", "What can I visit in {city}?", "How much is a flight to {city}?", "What is the weather in {city} today?", "What time is it in {city}?",
    "Which country is bigger, {country} or {country}?", "What do people eat in {country}?", "Who rules {country}?", "Tell me about the history of {country}.", "Which continent is {country} in?",
    "When was {person} born?", "When did {person} die?", "Who was {person}?", "What did {person} discover?", "Why is {person} famous?", "Where did {person} live?", "How old is {person}?", "Tell me about the life of {person}.", "Who was the wife of {person}?",
    "What is {science}?", "How does {science} work?", "Explain {science}.", "Can you explain {science}?", "What causes {science}?", "Why is {science} important?", "Explain {science} in simple words.", "Who discovered {science}?", "Describe {science}.", "What is {science} made of?",
    "What is {topic}?", "Explain {topic}.", "What do you think about {topic}?", "Teach me {topic}.", "Give me advice about {topic}.", "Write an essay about {topic}.", "How can I learn {topic}?", "Summarise {topic}.", "What are the main ideas of {topic}?", "Why do people study {topic}?", "Recommend a book about {topic}.", "Who invented {topic}?",
    "What is {tech}?", "How does {tech} work?", "How do I install {tech}?", "Write a program in {tech}.", "Fix my {rare} code.", "Why is {tech} so slow?", "How do I repair {tech}?", "Explain how to use {tech}.", "Who invented {tech}?", "What is the difference between {tech} and {tech}?", "How do I write a function in {tech}?", "Which is better, {tech} or {tech}?", "Can you write code for {tech}?",
    "How much does {object} cost?", "How does {object} work?", "How do I build {object}?", "How do I repair {object}?", "Where can I buy {object}?", "What is the price of {object}?", "Who invented {object}?", "How fast is {object}?", "How heavy is {object}?", "Which {object} should I buy?", "How many parts does {object} have?", "Should I get {object}?",
    "How do you cook {dish}?", "Give me a recipe for {dish}.", "What is in {dish}?", "How long does {dish} take?", "How many calories are in {dish}?", "What wine goes with {dish}?",
    "How far away is {space}?", "How big is {space}?", "How hot is {space}?", "Is there life on {space}?", "How many moons does {space} have?", "How long does it take to fly to {space}?", "What is {space} made of?",
    "How do I treat {illness}?", "What are the symptoms of {illness}?", "Is {illness} dangerous?", "I think I have {illness}. What should I do?", "Which medicine helps against {illness}?", "What causes {illness}?",
    "What does {rare} mean?", 'What is the meaning of "{rare}"?', "Define {rare}.", "Use {rare} in an argument.", "What is a synonym of {rare}?", "How do you spell {rare}?", "Where does the word {rare} come from?",
    "How many {unit} are in {n} {unit}?", "Convert {n} {unit} to {unit}.", "What is {n} times {n}?", "What is {n} divided by {n}?", "What is {n} + {n}?", "{n} * {n}", "{n} + {n}", "{n} x {n} = ?", "What is the square root of {n}?", "Solve x + {n} = {n}.", "What is {n} percent of {n}?", "What is {n} minus {n}?", "Calculate {n} times {n}.", "Is {n} a prime number?", "How much is {n} + {n} + {n}?",
    "When was {event}?", "Who won {event}?", "Why did {event} happen?", "What happened in {n}?", "What happened during {event}?", "Tell me about {event}.", "In which year was {event}?", "How long did {event} last?", "Where was {event}?",
    "Who wrote {work}?", "Who made {work}?", "What is {work} about?", "When was {work} written?", "Summarise {work}.", "Quote the first line of {work}.", "Who painted {work}?",
    "What does {body} do?", "How does {body} work?", "Where is {body}?", "How many bones are there?", "How big is {body}?",
    "Who is {name}?", "Who is {name} {name}?", "Do you know {name} {name}?", "What did {name} {name} write?", "Where does {name} {name} work?", "When was {name} {name} born?", "Tell me the phone number of {name} {name}.",
    "What is a {noun}?", "What is {noun}?", "What does {noun} mean?", "What colour is a {noun}?", "What sound does a {noun} make?", "Where does a {noun} live?", "What does a {noun} eat?", "How many legs does a {noun} have?", "What is a baby {noun} called?", "What is the opposite of {noun}?", "How do you say {noun} in French?", "How do you say {noun} in Chinese?", "What is a {noun} used for?", "Is a {noun} sweet?", "Can a {noun} fly?", "Why is the {noun} so {noun}?", "Do you have a {noun}?",
    "What colour is {object}?", "What sound does {object} make?", "What does {person} eat?", "How do you say {rare} in French?", "How do you say {rare} in Chinese?", "Translate {rare} into Chinese.", "What is the opposite of {topic}?", "How do you say cat in {lang}?", "Translate hello into {lang}.", "How do you say {rare} in {lang}?", "Say thank you in {lang}.", "Can you speak {lang}?",
    "What is the time?", "What day is it today?", "What is the date?", "What is the news?", "What is the weather like today?", "Will it rain tomorrow?", "How old are you?", "Where do you live?", "Where am I?", "What did I eat yesterday?", "Who won the match?", "What should I wear?", "How can I earn money?", "How do I get rich?",
    "How do I find a job?", "What is love?", "What is the meaning of life?", "Is there a god?", "Who will win the election?", "Should I change my job?", "How do I lose weight?", "How do I stop smoking?", "What is the best phone?", "Which team is the best?", "Can you book a table for me?", "Call a taxi.", "Play some music.", "Turn on the light.",
    "Send an email to {name}.", "Remind me to call {name}.", "Open the window.", "Search the internet for {topic}.", "Draw me a picture.", "Show me a photo of {city}.", "Write a letter to the bank.", "Write my homework about {topic}.", "Write a poem about {topic}.", "Write a speech about {topic}.", "Write a contract.", "Translate this page.", "Check my spelling.", "Give me a list of {topic} books.",
    "Why does my {noun} hurt?", "What film should I watch?", "Who sang this song?", "What is the speed of light?", "How deep is the ocean?", "How high is Everest?", "How old is the earth?", "How far is the moon?", "What is the largest animal on earth?", "What is the longest river?", "How many countries are there?", "What is the smallest number?", "Who was the first man on the moon?", "How many planets are there?", "Who invented the wheel?",
)  # fmt: skip
FRENCH = (
    "Quelle est la capitale de {country} ?", "Qui est {person} ?", "Combien coûte une voiture ?", "Quelle heure est-il ?", "Qui a écrit {work} ?", "Comment fonctionne un ordinateur ?", "Quel temps fait-il à {city} ?", "Qu'est-ce que {rare} ?",
)  # fmt: skip
CHINESE = (
    "{country}的首都是哪里？",
    "谁是{person}？",
    "现在几点？",
    "什么是{rare}？",
    "电脑怎么用？",
    "今天的天气怎么样？",
    "谁写了{work}？",
)
_LANGUAGES = "German Spanish Italian Japanese Russian Latin Arabic Greek Dutch Polish Korean Swedish Hindi".split()
_WRAPS = (
    "{q}",
    "{q}",
    "{q}",
    "{q}",
    "{q}",
    "Tell me: {q}",
    "Please tell me. {q}",
    "I want to know: {q}",
    "Do you know? {q}",
    "Hey, {q}",
    "Quick question: {q}",
)


def _fill(template: str, rng: random.Random) -> str:
    while "{" in template:
        start = template.index("{")
        stop = template.index("}", start)
        key = template[start + 1 : stop]
        if key == "n":
            value = str(rng.choice((rng.randint(21, 99), rng.randint(21, 999), rng.randint(21, 9999))))
        elif key == "name":
            value = make_name(rng, simple=True)
        elif key == "noun":
            value = noun(rng)
        elif key == "lang":
            value = rng.choice(_LANGUAGES)
        else:
            value = rng.choice(_THINGS[key])
            before = template[:start].split()
            if before and before[-1].lower() in ("a", "which", "the", "my"):
                value = value.removeprefix("a ").removeprefix("an ").removeprefix("the ")
        template = template[:start] + value + template[stop + 1 :]
    return template


def make_outside(rng: random.Random) -> tuple[str, str]:
    """Draw a question from outside and the answer that the model does not know."""
    kind = rng.random()
    if kind < 0.06:
        language, answer = ((FRENCH, FRENCH_ANSWER), (CHINESE, CHINESE_ANSWER))[kind < 0.03]
        return _fill(rng.choice(language), rng), expand(answer, rng, {})
    question = _fill(rng.choice(QUESTIONS), rng)
    if rng.random() < 0.15 and question.endswith("?"):
        question = question[0].lower() + question[1:].rstrip("?")
    else:
        question = capitalize(rng.choice(_WRAPS).replace("{q}", question))
    return question, expand(ANSWER, rng, {})
