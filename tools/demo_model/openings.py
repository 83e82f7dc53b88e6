"""How stories begin and end, whatever their plot; the slots are those of `plots.py`."""

# ruff: noqa: E501 - one template per line, however long it is

OPENINGS = (
    "Once upon a time, there was a {trait} {kind} named {N}. {N} lived in {home} near the {place}.",
    "Once upon a time, a {trait} {kind} named {N} lived in {home}.",
    "There was once a {trait} {kind} called {N}, who lived in {home} close to the {place}.",
    "In {home}, not far from the {place}, lived a {trait} {kind} named {N}.",
    "Do you know {N}? {N} was a {trait} {kind} who lived in {home}. Everybody at the {place} knew {N}.",
    "Long ago, near the {place}, there lived a {trait} {kind} called {N}.",
    "This is the story of {N}, a {trait} {kind} who lived in {home}.",
    "Far away, beyond the {place}, a {trait} {kind} named {N} had {his} home.",
)
# Quiet sentences between the opening and the plot; they give the stories more variety than the plots alone.
HABITS = (
    "[In the morning|Every evening|On sunny days|After breakfast], {N} liked to [watch the clouds|count the stars|sit by the window|look for pretty stones|talk to the birds|pick flowers|draw pictures|tell funny stories|listen to the wind].",
    "[The air smelled of|The garden was full of|The path was lined with] [roses|fresh grass|lavender|wild flowers|ripe fruit|mint], and {N} was [glad|in a good mood|humming a song].",
    "{N} had [soft ears|bright eyes|a loud laugh|quick feet|a warm heart|a clever head|a little secret|many questions] and loved to [help|laugh|learn new things|explore|make others smile].",
    "Everybody said that {N} was the [kindest|funniest|most curious|bravest|most careful|most cheerful] {kind} [in the land|for miles around|under the sun].",
    "[The sun was shining|A soft wind was blowing|The birds were singing|White clouds sailed across the sky|The bells were ringing], and {N} [was looking for something to do|put on a {colour2} {wear}|drank a cup of tea|went for a walk].",
)
ENDINGS = (
    "[{N} smiled and went home.|{N} slept very well that night.|{N} had never been so happy.|It was the best day of the year for {N}.]",
    "[That night, {N} dreamed of new adventures.|When the moon came up, {N} was already asleep.|{N} and {F} stayed friends for ever.]",
    "[And that is the story of {N}.|And {N} lived happily ever after.|And {N} told this story for many years.]",
)
