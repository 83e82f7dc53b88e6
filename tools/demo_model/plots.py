"""The plots: each is a list of sentence templates with slots, and the phrases by which a request can ask for it.

`{N}` is the hero and `{F}` the friend; `{he}` `{him}` `{his}` are the hero's pronouns, `{fhe}` `{fhim}` `{fhis}` the
friend's. The name of the hero stands in most sentences on purpose: a small model learns to keep it by copying it often.
"""

# ruff: noqa: E501 - one template or table row per line, however long it is

from dataclasses import dataclass


@dataclass(frozen=True)
class Plot:
    """One plot: `themes` are request phrases that continue "a story about a dog named Max ..."."""

    themes: tuple[str, ...]
    lines: tuple[str, ...]


PLOTS = (
    Plot(  # lost
        ("who loses a {object}", "who lost a {object}", "and a lost {object}", "who looks for a {object}"),
        (
            "More than all other things, {N} loved {his} {colour} {object} and [kept it under the pillow|took it everywhere|played with it every day].",
            "One {weather} [morning|afternoon], the {object} was gone! [{N} felt very sad.|{N} began to cry.|{N} could not believe it.]",
            "{N} looked [under the bed|behind the door|in every corner], but the {object} was not there.",
            '¶Then {N} met {F}, a {ftrait} {fkind}. "Why are you so sad, {N}?" asked {F}.',
            '"I lost my {colour} {object}," said {N}. "[I have looked everywhere.|Can you help me find it?]"',
            '"[Do not cry|I will help you|Four eyes see more than two]," said {F}. "[Let us think|Let us look together]. Where did you play yesterday?"',
            '{N} thought hard. "[I played|I was|I took a nap] near the {place2}!" {he} said.',
            "So {N} and {F} [ran|walked|hurried] to the {place2}.",
            "There, [under a leaf|behind a big stone|in the tall grass|next to an old fence], lay the {object}.",
            '¶"[Thank you|Thank you so much], {F}!" cried {N}, and gave {F} a big hug.',
            "From that day on, {N} [always put the {object} back in its place|took good care of the {object}|shared the {object} with {F}].",
        ),
    ),
    Plot(  # found
        ("who finds a lost {object}", "who finds a {object}", "who finds a {colour} {object}", "about being honest"),
        (
            "One {weather} day, {N} was walking to the {place2} when {he} saw something [shiny|strange|bright] on the path.",
            "It was a {colour} {object}! [Nobody was near.|There was no name on it.|It looked almost new.]",
            '"[What a lovely|What a beautiful|What a fine] {object}," said {N}. "But it is not mine. [Somebody must miss it.|I must find the owner.]"',
            "So {N} asked [the baker and the miller|the postman and the teacher|everybody], but the {object} was not theirs.",
            "¶At last, {N} heard [somebody crying|a sad voice|a small sob] behind a [tree|wall|hedge]. It was a {ftrait} {fkind} named {F}.",
            '"[What is wrong|Why are you crying|What happened]?" asked {N}.',
            '"I have lost my {colour} {object}," said {F}. "My grandmother gave it to me."',
            '"Is it this one?" asked {N}, and held up the {object}.',
            '¶At once, {F} [jumped for joy|laughed and clapped|began to smile]. "Yes! Thank you, {N}! You are very honest."',
            "Because {N} had [told the truth|given the {object} back], {F} [invited {him} to tea|shared a cake with {him}|became {his} friend].",
        ),
    ),
    Plot(  # storm
        ("and a big storm", "who is afraid of the storm", "who is afraid of thunder", "about being brave"),
        (
            "One evening, dark clouds came over the {place}. [The wind began to blow.|The trees began to shake.|The first drops fell.]",
            "Boom! went the thunder. {N} was [afraid|scared|frightened] and hid [under a blanket|under the table|behind the door].",
            "¶Then {N} heard a [small voice|cry] outside. It was {F}, the {ftrait} {fkind}, and {fhe} was [wet and cold|lost in the rain].",
            '"[Help|Please help me], {N}!" called {F}. "[I cannot see the way home|The wind is too strong for me]."',
            "{N} was still afraid, but {he} [took a deep breath|thought of {his} friend|took a lantern] and opened the door.",
            "{N} [ran through the rain|walked into the wind] and took {F} by the hand. Together they came back to the warm house.",
            "¶Quickly, {N} gave {F} a [dry towel|warm blanket|soft pillow] and a cup of [hot milk|tea|hot chocolate].",
            '"You were very brave, {N}," said {F}. "[Were you not afraid?|Are you never afraid?]"',
            '"[Yes|A little]," said {N}, "but it is easier to be brave when [a friend needs you|we are together]."',
            "In the morning, the storm was over and a [rainbow|bright sun] stood above the {place}.",
        ),
    ),
    Plot(  # share
        ("who shares some {foods}", "who learns to share", "about sharing", "and a basket of {foods}"),
        (
            "One day, {N} found a [basket full of|bag of|tree full of] {foods} near the {place2}.",
            '"[These are all mine|I will eat them all|What luck]!" said {N}, and [sat down in the shade|began to eat].',
            "¶Soon a {ftrait} {fkind} named {F} came by. {F} had [walked a long way|worked all morning] and was hungry.",
            '"[May I have one {food}|Could you give me one {food}|May I taste a {food}], please?" asked {F}.',
            '"No," said {N}. "[I found them first|They are mine]." So {F} [walked away sadly|went away with an empty stomach].',
            "{N} ate and ate, until {his} stomach hurt. [Eating alone was no fun.|It was very quiet, and {N} felt lonely.]",
            '¶Then {N} ran after {F}. "I am sorry," {he} said. "[Please come back|Let us eat together]. There are enough {foods} for both of us."',
            "{N} gave {F} [half of the {foods}|the biggest {food}|the best {food}], and they [laughed|talked|sang] until the sun went down.",
            "The {foods} tasted much better now, because {N} [was not alone|had shared them with a friend].",
        ),
    ),
    Plot(  # skill
        ("who learns to {skill}", "who wants to {skill}", "who cannot {skill}", "about trying again"),
        (
            "More than anything, {N} wanted to learn to {skill}. [Everybody else could do it.|{His} friends made it look so easy.]",
            "But the first time, {N} {fail}. [The others laughed.|{N} felt silly.|{N} was ready to give up.]",
            '¶"I will never learn to {skill}," said {N} [sadly|with a sigh].',
            'A {ftrait} {fkind} named {F} heard {him}. "[I could not do it at first either|Everybody has to begin somewhere], {N}," said {F}.',
            '"[Come with me every morning|Let us practise together], and I will show you how."',
            "So every [day|morning], {N} went to the {place2} with {F} and {practice}.",
            "On the first day, it was hard. On the second day, it was [a little better|easier]. {N} did not stop.",
            '¶After a week, {N} tried once more. "[Look|Watch me], {F}!" cried {N}. "I can {skill}!"',
            "{F} [clapped loudly|cheered|was very proud]. [All the others cheered too.|Even the birds seemed to cheer.]",
            "{N} had learned that [practice makes it easy|nobody should give up too soon|small steps lead far].",
        ),
    ),
    Plot(  # party
        ("who plans a surprise party", "and a birthday party", "who has a birthday", "and a big surprise"),
        (
            "It was the birthday of {N}, but nobody said a word about it. [{N} waited all morning.|{N} looked for a card, but there was none.]",
            "{N} went to see {F}, the {ftrait} {fkind}. But {F} [said that {fhe} was busy|closed the door quickly|had no time to play].",
            '"[Nobody remembers my birthday|Everybody has forgotten me]," thought {N}, and walked sadly to the {place2}.',
            "¶When {N} came home in the evening, the house was dark. [It was very quiet.|Something smelled sweet.]",
            "{N} opened the door and suddenly all the lights went on.",
            '"Surprise! Happy birthday, {N}!" shouted {F} and all the friends.',
            "There was a cake with [five|six|seven|ten] candles, and {colour} balloons hung from the ceiling.",
            '¶"[We had to keep it secret|I was baking the cake all day]," said {F}. "That is why I [had no time|could not play with you]."',
            "{N} laughed and [blew out the candles|hugged {F}|danced around the table]. {F} gave {him} a {colour} {object}.",
            "Now {N} knew that {his} friends [had not forgotten {him}|loved {him} very much].",
        ),
    ),
    Plot(  # rescue
        ("who saves a friend", "who rescues a {fkind}", "who helps a friend in trouble", "about helping others"),
        (
            'One {weather} day, {N} heard a cry near the {place2}. "Help! Help!"',
            "{N} [ran|hurried|went] to look. A {ftrait} {fkind} named {F} was stuck in {trap} and could not get out.",
            '"[Do not worry|Stay calm|Hold on], {F}!" called {N}. "[I will help you|I will get you out]."',
            "{N} tried to reach {F}, but [it was too far|it was no use]. So {N} sat down and thought.",
            '¶"I know!" said {N}. "I need {tool}." {He} ran home and soon came back with {tool}.',
            "{N} {how}. [It took a long time.|It was hard work.|Slowly, very slowly, it worked.]",
            "At last, {F} was free! [{F} was tired but not hurt.|{F} shook all over and then laughed.]",
            '¶"You saved me, {N}," said {F}. "[How can I thank you|What can I do for you]?"',
            '"[Just be my friend|You would do the same for me]," said {N} with a smile.',
            "And when {N} [needed help|was in trouble] the next [week|winter], {F} was the first to come.",
        ),
    ),
    Plot(  # broken
        ("who breaks a {fragile}", "who tells the truth", "and a broken {fragile}", "about telling the truth"),
        (
            "One day, {N} was playing with a {colour} {object} in the house of {F}, a {ftrait} {fkind}.",
            "Crash! The {object} hit the {fragile}, and the {fragile} [broke|fell to the floor and broke] into many pieces.",
            "{N} looked around. Nobody had seen it. [{N} wanted to run away.|{N} hid the pieces under the carpet.]",
            '¶When {F} came in, {fhe} asked, "[Where is my {fragile}|What was that noise|Who broke my {fragile}]?"',
            "{N} [felt hot and cold|looked at the floor|could not speak]. {He} could say that the wind did it, but that was not true.",
            '"It was me," said {N} at last. "I broke the {fragile}. I am very sorry, {F}."',
            "¶For a moment, {F} was quiet. Then {fhe} [smiled|put an arm around {N}].",
            '"[I am sad about the {fragile}|A {fragile} can be mended]," said {F}, "but I am glad that you told me the truth, {N}."',
            "Together, {N} and {F} [glued the pieces|cleaned the floor and made a new {fragile}|mended the {fragile}].",
            "After that, {N} felt [light as a feather|much better], and {he} [never hid the truth again|was always careful].",
        ),
    ),
    Plot(  # garden
        ("who plants a {seed}", "who grows a {seed}", "and a {seed} seed", "about being patient"),
        (
            "In spring, {N} planted a {seed} seed in the garden. [{N} watered it every day.|{N} gave it water and talked to it.]",
            '"[When will it grow|Why is nothing happening|How long must I wait]?" asked {N} after two days.',
            '¶Then {F}, a {ftrait} {fkind}, looked over the fence. "You must be patient, {N}," said {F}. "A {seed} needs [sun|time], water and love."',
            "So {N} waited. It rained, and {N} waited. The sun shone, and {N} [waited|still waited].",
            "Then one morning, a tiny green leaf [came out of the ground|looked out of the earth]. {N} [jumped with joy|shouted with joy]!",
            "But a [cold wind|hungry snail|hot day] came, so {N} [built a little fence|made a small roof of leaves|watched it day and night].",
            "¶By summer, the {seed} was [big|tall|strong] and beautiful. [Everybody came to see it.|Even the bees came to visit.]",
            '"[It was worth the wait|You were right], {F}," said {N}.',
            "{N} gave some of the seeds to {F}, and the next year [two gardens|both gardens] were full of colour.",
        ),
    ),
    Plot(  # newcomer
        ("who makes a new friend", "and a new neighbour", "who meets a shy {fkind}", "about friendship"),
        (
            "One day, a {fkind} named {F} moved into the house next to {N}. {F} was [shy|quiet] and did not say a word.",
            "{N} waved, but {F} [ran inside|looked away|hid behind a curtain]. [{N} wondered why.|{N} did not understand.]",
            '"[Maybe {F} does not like me|Perhaps {F} is afraid]," thought {N}. "I will try again tomorrow."',
            "¶The next morning, {N} put a {colour} {object} in front of the door with a little note.",
            'The note said: "Welcome, {F}! [Would you like to play?|I live next door.|Come and see me.] Your neighbour, {N}."',
            "{N} waited [all day|behind the hedge|on the steps]. Then the door opened a little, and {F} came out.",
            '"Thank you for the {object}," said {F} [softly|in a small voice]. "I was afraid that nobody would talk to me here."',
            '¶"[I would love to talk to you|I was afraid of the same thing when I came here]," said {N}. "Come, I will show you the {place2}."',
            "{N} and {F} played until [it was dark|the stars came out]. {F} [laughed|talked and laughed] the whole time.",
            "From then on, {N} was never alone, for {he} had [a true friend|the best friend in the world].",
        ),
    ),
    Plot(  # race
        ("who runs a race", "who wants to win a race", "and a big race", "who is not very fast"),
        (
            "Every year, there was a big race from the {place} to the {place2}. This year, {N} wanted to run too.",
            '"You?" laughed {F}, the fastest {fkind} of all. "[You are much too slow|You will be the last], {N}!"',
            "{N} [did not answer|only smiled]. {He} had practised every morning for a month.",
            "¶One, two, three, go! {F} ran [like the wind|as fast as an arrow], and {N} was [far behind|the last of all].",
            "But {F} looked back to laugh, did not see a [stone|root], and fell. {F} had hurt {fhis} foot.",
            "Soon {N} came along. Now {N} could win the race! [But {N} looked at {F} and stopped.|{N} stopped all the same.]",
            '¶"[Lean on me|Give me your hand|Hold on to me]," said {N}. "We will finish the race together."',
            "Step by step, {N} and {F} walked to the end. They were the last, but everybody [cheered|clapped and cheered].",
            '"I am sorry that I laughed at you, {N}," said {F}. "You have [the biggest heart|the kindest heart] of us all."',
            "{N} got a {colour} ribbon for [kindness|being a good friend], and {he} was very proud of it.",
        ),
    ),
    Plot(  # noise
        ("who hears a strange noise", "and a strange noise", "who cannot sleep", "who is afraid of the dark"),
        (
            'It was a dark night, and {N} could not sleep. Suddenly there was a noise: "{noise}!"',
            "{N} [pulled the blanket over {his} head|sat up in bed|lit a candle]. [Was it a monster?|Was it a ghost?|What could it be?]",
            '"{noise}!" There it was again. {N} [shivered|held {his} breath] and called {F}, the {fkind} who lived upstairs.',
            '¶"Do you hear that, {F}?" whispered {N}. "[I think it is a monster|I am so afraid]."',
            '"[Let us go and look|We must find out what it is|Two are braver than one]," said {F}, who was {ftrait}.',
            "{N} took a lantern, and {F} took a broom. On the tips of their toes, they went [down the stairs|to the door].",
            "{N} held up the lantern, and then {he} began to laugh. It was only {source}!",
            "¶Then {N} {fix}. After that, it was [quiet and peaceful|perfectly quiet].",
            '"[Things look much bigger in the dark|It is good to look before you are afraid]," said {F}. {N} nodded and yawned.',
        ),
    ),
    Plot(  # way_home
        ("who gets lost in the woods", "who is lost", "who looks for the way home", "who follows a star"),
        (
            "One day, {N} followed a [butterfly|bright bird|dragonfly] into the woods. {N} went deeper and deeper.",
            "When {N} looked around, all the trees looked the same. {N} did not know the way home.",
            "It was getting dark, and {N} was [cold|hungry|tired]. {He} sat down on a [log|stone] and called for help.",
            '¶"[Who is calling|Who is there]?" asked a voice. It was {F}, a {ftrait} {fkind}.',
            '"I am {N}, and I am lost," said {N}. "[I want to go home|My family is waiting for me]."',
            '"[Look up|Look at the sky], {N}," said {F}. "Do you see the bright star above the {place}? It always shows the way."',
            "So {N} and {F} followed the star, [over a stream and under a fallen tree|past the tall pines|through the ferns].",
            "¶At last, {N} saw a light in a window. [It was home!|Home at last!] {N} ran as fast as {he} could.",
            "{His} family was so happy that they [gave {F} a bowl of soup|asked {F} to stay for supper].",
            "After that, whenever {N} saw the bright star, {he} thought of {F}.",
        ),
    ),
    Plot(  # cooking
        ("who bakes a {dish}", "who makes a {dish}", "and a very strange {dish}", "who makes a mistake"),
        (
            "One {weather} day, {N} wanted to make a {dish} for {F}, a {ftrait} {fkind}, because {F} [had been so kind|was coming to visit].",
            "{N} took a big bowl and mixed [milk, eggs and flour|everything together|this and that]. [What fun!|It smelled good.]",
            "But {N} was in a hurry and did not read the label. Instead of {good}, {he} put in a whole cup of {bad}!",
            '¶Soon {F} came, sat down and tasted the {dish}. {Fhis} face turned [red|green]. "[Oh|Hm]," said {F}, "this {dish} is... [special|interesting]."',
            '{N} tasted it too. "[It is terrible|It tastes awful]!" {he} cried. "I used {bad} instead of {good}. I am so sorry, {F}!"',
            "{F} began to laugh, and then {N} had to laugh too. They laughed until [their eyes were wet|the plates shook].",
            '"[Everybody makes mistakes|That can happen to anybody], {N}," said {F}. "Let us make a new {dish} together."',
            "¶This time, {N} read [every label|all the labels] slowly, and {F} stirred the bowl.",
            "The new {dish} was [wonderful|delicious], and {N} and {F} ate every bit of it.",
        ),
    ),
    Plot(  # gift
        ("who makes a gift", "who makes a present for a friend", "and a special present", "who has no money"),
        (
            "Tomorrow was the birthday of {F}, a {ftrait} {fkind} and the best friend of {N}. But {N} had no money for a present.",
            "{N} looked in the shop window near the {place2}. The {colour} {object} cost [ten|seven|eight] coins. [It was too much.|That was a lot.]",
            '"What can I do?" thought {N}. Then {he} had [an idea|a good idea]. "I can make something myself!"',
            "¶So {N} worked all [evening|night] with {stuff}. At last, {gift} was ready.",
            "{N} was a little worried. [Would {F} like it?|Was it good enough?|The others had brought big boxes.]",
            "At the party, {F} opened [all the boxes|one present after another]. Last of all came the present from {N}.",
            '¶"[Did you make this yourself|Is this really for me], {N}?" asked {F}, and {fhis} eyes shone.',
            '"Yes," said {N}. "It is only {gift}."',
            '"It is [the best present of all|the most beautiful thing I have]," said {F}, "because you made it with love."',
        ),
    ),
    Plot(  # sick
        ("who helps a sick friend", "and a sick friend", "who visits a sick {fkind}", "about being kind"),
        (
            "Every morning, {N} played with {F}, a {ftrait} {fkind}. But one day, {F} did not come.",
            '"[Where can {F} be|Why is {F} so late]?" thought {N}, and went to the house of {F}.',
            '{F} was in bed with a [red nose|sore throat|fever]. "I am sick, {N}," said {F}. "I cannot play today."',
            '¶"Then I will take care of you," said {N}. {He} [made a pot of soup|cooked vegetable soup|made tea with honey].',
            "{N} also read a story [about pirates|about a flying ship|about the moon], and {F} [listened|smiled] and fell asleep.",
            "For three days, {N} came [every morning|after breakfast]. {He} brought {foods}, flowers and funny pictures.",
            '¶On the fourth day, {F} [opened the door|jumped out of bed]. "I am well again, {N}!" {fhe} cried. "Your [soup|kindness] helped me."',
            '"[I missed you|It was boring without you], {F}," said {N}. "Let us go to the {place2}!"',
            "And when {N} had a cold [in winter|the next month], guess who came with a pot of soup? It was {F}.",
        ),
    ),
    Plot(  # treasure
        ("who finds a treasure map", "who looks for a treasure", "and a secret map", "who goes on an adventure"),
        (
            "One day, {N} found an old map in [a bottle|a dusty book|the attic]. There was a {colour} cross on it.",
            '"A treasure map!" cried {N}, and ran to {F}, a {ftrait} {fkind}. "[Will you come with me|Do you want to find a treasure], {F}?"',
            "{F} [packed some {foods}|took a shovel|put on a hat], and off they went, [over the hills|across the {place}].",
            "¶First they crossed a river on [an old boat|slippery stones]. {F} nearly fell in, but {N} [held {fhim} tight|caught {fhis} hand].",
            "Then they came to a dark cave. {N} was afraid, but {F} sang a [funny|merry] song, and so {N} was brave.",
            "At last, they found the cross under a big tree near the {place2}. {N} and {F} dug and dug.",
            '¶They found a small box. "[Gold|Is it gold]?" asked {F}. But inside was only a {colour} {object} and a letter.',
            'The letter said: "The real treasure is the friend who came with you."',
            '{N} looked at {F}, and [both of them laughed|they smiled at each other]. "[The letter is right|That is true]," said {N}.',
        ),
    ),
    Plot(  # snow
        ("who builds a snowman", "and the first snow", "who plays in the snow", "and a friendly snowman"),
        (
            "One morning, the whole world was white. It was the first snow, and {N} [ran outside|could not wait to go out].",
            "{N} called {F}, the {ftrait} {fkind}, and together they built a snowman with a [carrot nose|{colour} hat].",
            '"[He looks lonely|He looks cold], {N}," said {F}. So {N} gave the snowman {his} own scarf.',
            "¶Every day, {N} said good morning to the snowman. [They told him secrets.|{F} sang songs for him.]",
            "But then the sun grew warm, and the snowman became [smaller and smaller|thin and small]. {N} was sad.",
            '"Do not go away!" cried {N}. But one morning, only the scarf [was left|lay in the grass].',
            '¶"[He is not really gone|Do not be sad], {N}," said {F}. "He is water now. He will help the flowers to grow."',
            "And really, on that very spot, [white|blue|yellow] flowers came up in spring. {N} called them snowman flowers.",
            "When the next winter came, {N} and {F} built [an even bigger snowman|two snowmen, so that nobody was lonely].",
        ),
    ),
)
