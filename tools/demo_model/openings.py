"""How stories begin and end, whatever their plot; the slots are those of `plots.py`."""

# ruff: noqa: E501 - one template per line, however long it is

OPENINGS = (
    "Once upon a time, there was a {trait} {kind} named {N}. {N} lived in {home} near the {place}.",
    "Once upon a time, a {trait} {kind} named {N} lived in {home}.",
    "There was once a {trait} {kind} called {N}, who lived in {home} close to the {place}.",
    "In {home}, not far from the {place}, lived a {trait} {kind} named {N}.",
    "Do you know {N}? {N} was a {trait} {kind} who lived in {home}.",
    "Long ago, near the {place}, there lived a {trait} {kind} called {N}.",
    "This is the story of {N}, a {trait} {kind} who lived in {home}.",
    "Far away, beyond the {place}, a {trait} {kind} named {N} lived in {home}.",
    "Everybody at the {place} knew {N}, the {trait} {kind} who lived in {home}.",
    "Between the {place} and the end of the world lived a {trait} {kind} named {N}.",
    "Listen well, for this is a true story about {N}, a {trait} {kind} from the {place}.",
    "If you go past the {place}, you come to {home}. There lived {N}, a {trait} {kind}.",
)
# Quiet sentences between the opening and the plot; they give the stories more variety than the plots alone.
HABITS = (
    "[In the morning|Every evening|On sunny days|After breakfast], {N} liked to [watch the clouds|count the stars|look for pretty stones|talk to the birds|tell funny stories|listen to the wind].",
    "{N} had [a loud laugh|a warm heart|a clever head|a little secret|many questions] and loved to [help|laugh|learn new things|explore|make others smile].",
    "Everybody said that {N} was the [kindest|funniest|most curious|most careful|most cheerful] {kind} [in the land|for miles around|under the sun].",
    "{N} owned a {colour2} {wear} and wore it [every day|only on Sundays|even in bed].",
    "{N} had [a hundred ideas a day|more ideas than anybody else], and [one of them was|two of them were] even good.",
    "Most of all, {N} loved [pancakes|honey cake|hot chocolate|long stories|short naps|loud songs|quiet evenings].",
    "{N} could [sing very loudly|tell long jokes|sleep until noon|count to a thousand], but {he} could not [keep a secret|find {his} {wear}|sit still|get up early].",
    "[Nothing ever happened there|Life was quiet there|Every day was like the other], until one day, something happened to {N}.",
    "When {N} was [happy|in a good mood|alone], {he} [hummed a little song|made up silly rhymes|talked to the clouds].",
    '{N} always said: "[Every day is a good day|A joke a day is enough|Never be late for supper|First think, then eat]!"',
    "The wind knew {N}, the birds knew {N}, and even the [clouds|stones|old trees] seemed to say hello.",
    "{N} wanted to [see the whole world|know everything|be famous|make everybody laugh], but first {he} wanted breakfast.",
)
ENDINGS = (
    "{N} and {F} still laugh about it today.",
    "And that is the story of {N}.",
    "And {N} lived happily ever after.",
    "{N} told this story for many years, and it grew longer every time.",
    "{N} and {F} stayed friends for ever.",
    "And if you ever meet {N}, ask {him} about it.",
    "Even now, {N} smiles when {he} thinks of it.",
    "And if {N} has not gone to bed, {he} is telling this story right now.",
    "{N} had never laughed so much before.",
    "{F} says that it happened just like this, and {N} says so too.",
    "From then on, {N} and {F} saw each other every day.",
    "What do you think {N} and {F} did next?",
)
