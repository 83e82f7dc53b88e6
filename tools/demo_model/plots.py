"""The plots: each is a list of sentence templates with slots, and the phrases by which a request can ask for it.

`{N}` is the hero and `{F}` the friend; `{he}` `{him}` `{his}` are the hero's pronouns, `{fhe}` `{fhim}` `{fhis}` the
friend's. The name of the hero stands in most sentences on purpose: a small model learns to keep it by copying it often.
Any creature may be the hero or the friend, and any thing the `{object}`, so no line depends on what they look like.
"""

# ruff: noqa: E501 - one template or table row per line, however long it is

import re

from more_plots import MORE_PLOTS
from plot import Plot

FIRST_PLOTS = (
    Plot(
        name="lost",
        themes=("who loses a {object}", "who lost a {object}", "who cannot find a {object}", "about losing things"),
        held_out_themes=("whose {object} is missing", "who has mislaid a {object}"),
        events=(r"was gone!", r"i lost my", r"where did you play", r"lost my hat"),
        lines=(
            "{N} loved {his} {colour} {object} and [kept it under the pillow|took it everywhere|looked at it every day].",
            "But one {weather} [morning|afternoon], the {object} was gone! {N} looked [under the bed|behind the door|in every corner], but it was not there.",
            '¶On the path, {he} met {F}, a {ftrait} {fkind}. "Why are you so sad, {N}?" asked {F}.',
            '"I lost my {colour} {object}," said {N}. "[I have looked everywhere.|Can you help me?]"',
            '"[Do not cry|Let us think|I will help you]," said {F}. "Where did you play yesterday?"',
            '{N} thought hard. "I [took a nap|had a picnic|sang a song] near the {place2}!" {he} cried.',
            "They hurried to the {place2}, and there, [behind a big stone|in the tall grass|next to an old fence], lay the {object}.",
            '¶"Thank you, {F}!" cried {N}. "You are [a real detective|so clever|my hero]!"',
            '"Oh no," said {F}, "now I have lost my hat!" {N} laughed. "It is on your head, {F}!"',
        ),
    ),
    Plot(
        name="found",
        themes=(
            "who finds a {object}",
            "who gives back a {object}",
            "who finds a {colour} {object}",
            "about being honest",
        ),
        held_out_themes=("who returns a {object} to its owner", "about giving back what is not yours"),
        events=(r"it is not mine", r"is it this one", r"very honest", r"grandmother"),
        lines=(
            "One {weather} day, {N} saw something [strange|wonderful|bright] on the path to the {place2}.",
            "It was a {colour} {object}! [Nobody was near.|There was no name on it.]",
            '"What a [lovely|fine|beautiful] {object}," said {N}. "But it is not mine. Somebody must miss it."',
            "{N} asked the [miller and the postman|teacher and the gardener|doctor and the tailor], but the {object} was not theirs.",
            "¶Then {he} heard a [sad voice|small sob] behind a [tree|wall|hedge]. It was {F}, a {ftrait} {fkind}.",
            '"My grandmother gave me a {colour} {object}, and now it is lost," said {F}.',
            '"Is it this one?" asked {N}, and held up the {object}.',
            '¶"Yes! Thank you, {N}!" cried {F}. "You are very honest. Come and have tea with us!"',
            "And the grandmother of {F} was so glad that she gave {N} a {colour2} {object} too.",
        ),
    ),
    Plot(
        name="storm",
        themes=("and a big storm", "who is afraid of the storm", "who is afraid of thunder", "about being brave"),
        held_out_themes=("and the night of the thunderstorm", "who is scared of thunder"),
        events=(r"boom! went the thunder", r"dark clouds", r"what brave means", r"both hid"),
        lines=(
            "One evening, dark clouds came over the {place}. Boom! went the thunder.",
            "{N} was [afraid|scared|frightened] and hid [under a blanket|under the table|behind the door].",
            '¶Then {he} heard a cry outside. "Help me, {N}! [I cannot see the way home|The wind is too strong for me]!"',
            "It was {F}, a {ftrait} {fkind}, [wet and cold|lost in the rain].",
            "{N} was still afraid, but {he} [took a deep breath|took a lantern] and opened the door.",
            "{N} ran out into the wind, found {F} and brought {fhim} in.",
            '¶Soon they sat [by the fire|under one blanket] with a cup of [hot milk|tea]. "You were very brave, {N}," said {F}.',
            '"But I was afraid the whole time," said {N}. "That is what brave means," said {F}.',
            "Boom! went the thunder again. This time, {N} and {F} both hid under the table.",
        ),
    ),
    Plot(
        name="share",
        themes=("who shares some {foods}", "who learns to share", "about sharing", "and a basket of {foods}"),
        held_out_themes=("who does not want to share", "who keeps all the {foods}"),
        events=(r"i found them first", r"eating alone", r"enough \w+ for both", r"so polite"),
        lines=(
            "One day, {N} found a [basket full|big bag] of {foods} near the {place2}.",
            '"[These are all mine|What luck]!" said {N}, and [sat down in the shade|began to eat].',
            '¶Soon {F}, a {ftrait} {fkind}, came by. "May I have one {food}, please?" asked {F}.',
            '"No," said {N}. "I found them first." So {F} went away [sadly|hungry].',
            "{N} ate and ate, until {his} stomach hurt. Eating alone was no fun.",
            '¶So {N} ran after {F}. "I am sorry," {he} said. "There are enough {foods} for both of us."',
            "They ate and [laughed|talked|sang] until the sun went down. Everything tasted better now.",
            'At last, only one {food} was left. "You take it," said {N}. "No, you," said {F}.',
            "{N} and {F} were so polite that the last {food} is still there today.",
        ),
    ),
    Plot(
        name="skill",
        themes=("who learns to {skill}", "who wants to {skill}", "who cannot {skill}", "about trying again"),
        held_out_themes=("who tries to {skill}", "about not giving up"),
        events=(r"at first either", r"the first day was hard", r"after a week", r"a hundred times"),
        lines=(
            "More than anything, {N} wanted to {skill}. [Everybody else could do it.|It looked so easy.]",
            "But the first time, {he} {fail}. [The others laughed.|That was not a good start.]",
            '¶"I will never learn to {skill}," said {N} [sadly|with a sigh].',
            '"I could not do it at first either," said {F}, a {ftrait} {fkind}. "[Come with me every morning|Let us practise together]!"',
            "So every day, {N} went to the {place2} with {F} and {practice}.",
            "The first day was hard. The second day was [a little better|easier]. {N} did not stop.",
            '¶After a week, {N} tried once more. "[Look|Watch me], {F}!" {he} cried. "I can {skill}!"',
            "{F} [cheered loudly|was very proud], and even the birds seemed to cheer.",
            '"It was easy," said {N}. "I only had to do it wrong a hundred times."',
        ),
    ),
    Plot(
        name="party",
        themes=("who gets a surprise party", "and a birthday party", "who has a birthday", "and a big surprise"),
        held_out_themes=("whose birthday seems to be forgotten", "and a secret birthday party"),
        events=(r"nobody said a word about it", r"surprise! happy birthday", r"candles", r"did not forget you"),
        lines=(
            "It was the birthday of {N}, but nobody said a word about it.",
            "{N} went to see {F}, a {ftrait} {fkind}, but {F} [said that {fhe} was busy|closed the door quickly].",
            '"Everybody has forgotten me," thought {N}, and walked sadly to the {place2}.',
            "¶When {he} came home in the evening, it was dark and very quiet. Something smelled sweet.",
            'Then all the lights went on. "Surprise! Happy birthday, {N}!" shouted {F} and all the friends.',
            "There were {colour} balloons and a cake with [five|six|seven|ten] candles.",
            '¶"I [was baking the cake all day|had to keep the secret]," said {F}, and gave {N} a {colour2} {object}.',
            '"But how did you all get in?" asked {N}.',
            '{F} laughed. "You forgot to lock the door, {N}. But we did not forget you!"',
        ),
    ),
    Plot(
        name="rescue",
        themes=("who saves a friend", "who rescues a {fkind}", "who helps a friend in trouble", "about helping others"),
        held_out_themes=("who comes to the rescue", "who frees a {fkind}"),
        events=(r"help! help!", r"could not get out", r"was free!", r"you saved me"),
        lines=(
            'One {weather} day, {N} heard a cry near the {place2}. "Help! Help!"',
            "It was {F}, a {ftrait} {fkind}. {Fhe} was stuck in {trap} and could not get out.",
            '"[Stay calm|Hold on|Do not worry], {F}!" called {N}.',
            '¶{N} thought hard. "I need {tool}!" {he} said, and ran home.',
            "Soon {N} was back with {tool} and {how}. [It was hard work.|It took a long time.]",
            "At last, {F} was free! {Fhe} was [tired|dirty|hungry], but not hurt.",
            '¶"You saved me, {N}," said {F}. "How can I thank you?"',
            '"[Just be my friend|You would do the same for me]," said {N} with a smile.',
            "The very next week, {N} was stuck in the same place. And who came with {tool}? It was {F}!",
        ),
    ),
    Plot(
        name="broken",
        themes=("who breaks a {fragile}", "who tells the truth", "and a broken {fragile}", "about telling the truth"),
        held_out_themes=("who must say sorry for a broken {fragile}", "who does not want to tell a lie"),
        events=(r"into many pieces", r"it was me\b", r"told me the truth", r"never liked that"),
        lines=(
            "One day, {N} was [dancing|jumping around|playing] in the house of {F}, a {ftrait} {fkind}.",
            "Crash! {N} bumped into the {fragile}, and it broke into many pieces.",
            "Nobody had seen it. {N} wanted to [run away|hide under the carpet].",
            '¶Then {F} came in. "What was that noise?" {fhe} asked.',
            "{N} could say that the wind did it, but that was not true.",
            '"It was me," said {N} at last. "I broke the {fragile}. I am very sorry, {F}."',
            '¶For a moment, {F} was quiet. "I am glad that you told me the truth, {N}," {fhe} said.',
            'Then {fhe} began to laugh. "And I never liked that ugly {fragile}!"',
            "Together, {N} and {F} made a new one, {colour} with [yellow stars|white dots]. It was crooked, but much nicer.",
        ),
    ),
    Plot(
        name="garden",
        themes=("who plants a {seed}", "who grows a {seed}", "and a {seed} seed", "about being patient"),
        held_out_themes=("who waits for a {seed} to grow", "who puts a seed in the ground"),
        events=(r"planted a \w+ seed", r"must be patient", r"tiny green leaf", r"good things need time"),
        lines=(
            "In spring, {N} planted a {seed} seed and [watered it|sang to it|talked to it] every day.",
            '"[When will it grow|How long must I wait]?" asked {N} after two days.',
            '¶{F}, a {ftrait} {fkind}, looked over the fence. "You must be patient, {N}," said {F}.',
            "So {N} waited. It rained, and {N} waited. The sun shone, and {N} [still waited|waited some more].",
            "Then one morning, a tiny green leaf came out of the ground. {N} [shouted with joy|danced around it]!",
            "A cold wind came, but {N} built a little fence around the leaf.",
            "¶By summer, the {seed} was [big|strong] and beautiful.",
            '"You were right, {F}," said {N}. "Good things need time." And {he} gave {F} a seed.',
            '{F} planted it at once. "Why is nothing happening?" asked {F} after two days.',
        ),
    ),
    Plot(
        name="newcomer",
        themes=("who makes a new friend", "and a new neighbour", "who meets a shy {fkind}", "about making friends"),
        held_out_themes=("and the {fkind} next door", "who welcomes somebody new"),
        events=(
            r"moved into the house next door",
            r"the note said",
            r"nobody would talk to me",
            r"could hardly say a word",
        ),
        lines=(
            "One day, {F}, a {ftrait} {fkind}, moved into the house next door. {Fhe} did not talk to anybody.",
            "{N} said hello, but {F} [looked away|hid behind a curtain|closed the door].",
            '"Perhaps {F} is afraid," thought {N}. "I will try again tomorrow."',
            "¶The next morning, {N} put a {colour} {object} and a note in front of the door.",
            'The note said: "Welcome, {F}! [Would you like to play?|Come and see me.] Your neighbour, {N}."',
            "{N} waited [all day|behind the hedge]. At last, {F} came out.",
            '¶"Thank you for the {object}," said {F} softly. "I was afraid that nobody would talk to me."',
            '"And I was afraid that you did not like me," said {N}.',
            "Then {F} began to talk, and talked until the stars came out. {N} could hardly say a word!",
        ),
    ),
    Plot(
        name="race",
        themes=("who runs a race", "who wants to win a race", "and a big race", "who is not very fast"),
        held_out_themes=("who comes last in a race", "who takes part in a race"),
        events=(r"a big race", r"much too slow", r"lean on me", r"the slowest race"),
        lines=(
            "{N} wanted to win a big race from the {place} to the {place2}.",
            '"You are much too slow, {N}!" laughed {F}, a {ftrait} {fkind} who was very fast.',
            "{N} only smiled. {He} had practised every [morning|evening].",
            "¶One, two, three, go! {F} was as fast as the wind, and {N} was far behind.",
            "But {F} looked back to laugh, fell over a [stone|root] and could not get up.",
            "Now {N} could win the race! But {he} stopped all the same.",
            '¶"Lean on me, {F}," said {N}. "We will finish the race together."',
            '"I am sorry that I laughed at you, {N}," said {F}. They were the last, but everybody cheered.',
            "{N} got a {colour} ribbon for the slowest race in a hundred years, and was very proud.",
        ),
    ),
    Plot(
        name="noise",
        themes=("who hears a strange noise", "and a strange noise", "who cannot sleep", "who is afraid of the dark"),
        held_out_themes=("and a spooky sound in the night", "who wakes up because of a noise"),
        events=(r"suddenly there was a noise", r"two are braver than one", r"took a broom", r"take the lantern"),
        lines=(
            'It was a dark night, and {N} could not sleep. Suddenly there was a noise: "{Noise}!"',
            "{N} [pulled up the blanket|sat up in bed|lit a candle]. What could it be?",
            '"{Noise}!" There it was again. {N} called {F}, a {ftrait} {fkind} from next door.',
            '¶"Do you hear that, {F}?" whispered {N}. "[I am so afraid|It is coming closer]!"',
            '"Let us go and look," said {F}. "Two are braver than one."',
            "{N} took a lantern, and {F} took a broom. Very quietly, they opened the door.",
            "{N} held up the lantern and began to laugh. It was only {source}!",
            "¶So {N} {fix}, and then the night was quiet again.",
            '"Good night, {N}," said {F}. "But may I take the lantern? It is so dark outside!"',
        ),
    ),
)
"""The first plots; the others are in `more_plots.py`."""
PLOTS = (*FIRST_PLOTS, *MORE_PLOTS)


def plot_of(text: str) -> str | None:
    """Tell which plot a story follows.

    Args:
        text: A story, perhaps one that a model wrote.

    Returns:
        The name of the plot with the largest share of its events in the text; None when that share is below two
        thirds or two plots have the same share.
    """
    shares = sorted(
        (sum(bool(re.search(event, text, re.IGNORECASE)) for event in plot.events) / len(plot.events), plot.name)
        for plot in PLOTS
    )
    (second, _), (best, name) = shares[-2:]
    return name if best >= 2 / 3 and best > second else None
