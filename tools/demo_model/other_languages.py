"""Short French and Chinese stories and words, so that accents and multi-byte text are exercised."""

# ruff: noqa: E501 - one template or table row per line, however long it is

import random

from grammar import capitalize, expand
from names import chinese_name, gender_of, make_name

# English, French with its article, Chinese
WORDS = (
    ("dog", "le chien", "狗"), ("cat", "le chat", "猫"), ("rabbit", "le lapin", "兔子"), ("bear", "l'ours", "熊"),
    ("mouse", "la souris", "老鼠"), ("bird", "l'oiseau", "鸟"), ("fish", "le poisson", "鱼"), ("horse", "le cheval", "马"),
    ("cow", "la vache", "牛"), ("tiger", "le tigre", "老虎"), ("house", "la maison", "房子"), ("tree", "l'arbre", "树"),
    ("flower", "la fleur", "花"), ("sun", "le soleil", "太阳"), ("moon", "la lune", "月亮"), ("star", "l'étoile", "星星"),
    ("water", "l'eau", "水"), ("milk", "le lait", "牛奶"), ("bread", "le pain", "面包"), ("apple", "la pomme", "苹果"),
    ("book", "le livre", "书"), ("school", "l'école", "学校"), ("friend", "l'ami", "朋友"), ("mother", "la mère", "妈妈"),
    ("father", "le père", "爸爸"), ("river", "la rivière", "河"), ("mountain", "la montagne", "山"), ("sea", "la mer", "大海"),
    ("snow", "la neige", "雪"), ("rain", "la pluie", "雨"), ("red", "rouge", "红色"), ("blue", "bleu", "蓝色"),
    ("green", "vert", "绿色"), ("white", "blanc", "白色"), ("black", "noir", "黑色"), ("one", "un", "一"), ("two", "deux", "二"),
    ("three", "trois", "三"), ("hello", "bonjour", "你好"), ("thank you", "merci", "谢谢"), ("goodbye", "au revoir", "再见"),
    ("yes", "oui", "是"), ("no", "non", "不"), ("big", "grand", "大"), ("small", "petit", "小"), ("heart", "le cœur", "心"),
)  # fmt: skip

FRENCH_KINDS = {
    "m": ("chien", "chat", "lapin", "renard", "hérisson", "ours", "canard", "mouton"),
    "f": ("souris", "grenouille", "tortue", "poule", "vache", "chèvre", "girafe", "abeille"),
}
FRENCH_REQUESTS = (
    "[Écris|Raconte|Raconte-moi] une histoire sur {un} {kind} [nommé{e}|qui s'appelle] {N}",
    "[Écris|Raconte] une histoire en français sur {N}",
    "Write a story in French about {N}",
)
FRENCH_STORIES = (
    "Il était une fois {un} {petit} {kind} qui s'appelait {N}. {N} habitait [près de la forêt|au bord de la rivière|dans une "
    "petite maison]. Un jour, {N} a perdu [son ballon rouge|sa clé|son chapeau bleu]. {Il} a cherché partout, mais {il} n'a "
    "rien trouvé. Alors, son ami {F} est arrivé. « Je vais t'aider, {N} », a dit {F}. Ensemble, ils ont regardé [sous le "
    "grand arbre|derrière la maison|dans le jardin], et voilà ! « Merci, {F} ! » a crié {N}. Ils sont restés amis pour toujours.",
    "Dans un petit village, {N} était {un} {kind} très [sage|drôle|calme]. Un soir d'hiver, {N} a entendu un bruit [derrière la porte|dans le "
    "jardin]. C'était {F}, et {F} avait froid et faim. « Entre vite ! » a dit {N}. {N} lui a donné [une soupe chaude|du pain et "
    "du fromage|un bol de lait] et une couverture. Le lendemain, le soleil brillait sur la neige. « Merci, {N}, tu as bon "
    "cœur », a dit {F}. Et {N} était {heureux}.",
    "Au printemps, {N}, {un} {petit} {kind}, a planté une graine. Chaque jour, {N} lui donnait de l'eau. « Pourquoi ne "
    "pousse-t-elle pas ? » demandait {N}. « Il faut attendre », répondait {F}. Un matin, {N} a vu une [fleur jaune|fleur "
    "rouge|belle rose] dans le jardin. {N} était {heureux}, et {il} a offert la fleur à {F}.",
)
CHINESE_KINDS = ("小狗", "小猫", "小兔子", "小熊", "小鸟", "小老虎", "小鸭", "小羊")
CHINESE_REQUESTS = (
    "[写|讲]一个关于{kind}{N}的故事",
    "请[写|讲]一个{kind}{N}的故事",
    "Write a story in Chinese about {N}",
)
CHINESE_STORIES = (
    "从前，有一只{kind}，名字叫{N}。{N}住在[森林里|山脚下|小河边]。有一天，{N}的[红球|帽子|书]不见了，{N}很难过。{F}看见了，说：“别哭，{N}，"
    "我来帮你找。”他们一起找啊找，最后在[大树下面|石头后面|草地上]找到了。{N}高兴地说：“谢谢你，{F}！”从此，{N}和{F}成了好朋友。",
    "[从前|很久以前]，{N}是一只[勇敢|聪明|可爱]的{kind}。一天晚上，外面下着[大雨|大雪]，{N}听见有人敲门。原来是{F}，{F}又冷又饿。{N}说：“快进来吧！”{N}给{F}"
    "[一碗热汤|一杯牛奶|一块面包]。第二天，太阳出来了，{F}说：“{N}，你真好！”{N}笑了。",
    "春天来了，{kind}{N}在花园里种了一颗种子。{N}每天给它浇水。{F}问：“它什么时候长大？”{N}说：“我们要耐心等待。”过了[十天|一个月|很久]，"
    "种子变成了一朵[红色|黄色|白色]的花。{N}把花送给了{F}，他们都很快乐。",
)


def french_story(
    rng: random.Random, held_out: bool = False, requests: tuple[str, ...] = FRENCH_REQUESTS, name: str | None = None
) -> tuple[str, str, str]:
    """Return a request, a French story and its hero's name, which is of the asked side of the split."""
    name = name or make_name(rng, held_out)
    gender = gender_of(name)
    slots = {
        "N": name,
        "F": make_name(rng),
        "kind": rng.choice(FRENCH_KINDS[gender]),
        "un": "un" if gender == "m" else "une",
        "petit": "petit" if gender == "m" else "petite",
        "e": "" if gender == "m" else "e",
        "il": "il" if gender == "m" else "elle",
        "heureux": "très heureux" if gender == "m" else "très heureuse",
    }
    return capitalize(expand(rng.choice(requests), rng, slots)), expand(rng.choice(FRENCH_STORIES), rng, slots), name


def chinese_story(
    rng: random.Random,
    held_out: bool = False,
    requests: tuple[str, ...] = CHINESE_REQUESTS,
    name: str | None = None,
    rare: float = 0.0,
) -> tuple[str, str, str]:
    """Return a request, a Chinese story and its hero's name, which is of the asked side of the split."""
    name = name or (chinese_name(rng, held_out, rare) if rng.random() < 0.85 else make_name(rng, held_out, simple=True))
    slots = {"N": name, "F": chinese_name(rng), "kind": rng.choice(CHINESE_KINDS)}
    return expand(rng.choice(requests), rng, slots), expand(rng.choice(CHINESE_STORIES), rng, slots), name
