"""Find the objects that a sentence mentions, as CHAIR does: names, synonyms and plurals."""

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

# fmt: off
COCO = (
    "person: man, woman, boy, girl, child, kid, baby, guy, lady, people, player, skier, surfer, "
    "skateboarder, snowboarder, rider, crowd, toddler, gentleman, cyclist",
    "bicycle: bike", "car: sedan, taxi, minivan, suv", "motorcycle: motorbike, motor bike, scooter",
    "airplane: plane, jet, aircraft, air plane", "bus: minibus", "train: locomotive, subway train",
    "truck: pickup, lorry, firetruck, pickup truck", "boat: ship, canoe, kayak, sailboat, ferry",
    "traffic light: stoplight, traffic signal, stop light", "fire hydrant: hydrant", "stop sign",
    "parking meter", "bench", "bird: duck, seagull, pigeon, parrot, goose, owl, swan, ostrich",
    "cat: kitten, kitty", "dog: puppy, pup", "horse: pony, foal", "sheep: lamb",
    "cow: cattle, calf, bull, ox", "elephant", "bear: panda, polar bear", "zebra", "giraffe",
    "backpack: rucksack, knapsack", "umbrella: parasol", "handbag: purse",
    "tie: necktie, bow tie", "suitcase: suit case, luggage", "frisbee", "skis: ski", "snowboard",
    "sports ball: ball, baseball, basketball, football, tennis ball, soccer ball", "kite",
    "baseball bat: bat", "baseball glove: mitt, catcher's mitt", "skateboard", "surfboard",
    "tennis racket: racket, racquet, tennis racquet", "bottle", "wine glass: wineglass",
    "cup: mug, teacup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich: burger, "
    "hamburger, cheeseburger", "orange", "broccoli", "carrot", "hot dog: hotdog", "pizza",
    "donut: doughnut", "cake: cupcake, cheesecake", "chair: armchair, stool", "couch: sofa",
    "potted plant: houseplant, house plant", "bed", "dining table: table", "toilet: urinal",
    "tv: television, tv set", "laptop: laptop computer", "mouse: computer mouse",
    "remote: remote control", "keyboard", "cell phone: cellphone, mobile phone, smartphone, phone",
    "microwave: microwave oven", "oven: stove, stove top", "toaster", "sink",
    "refrigerator: fridge", "book", "clock: clock tower", "vase", "scissors", "teddy bear: teddy",
    "hair drier: hair dryer, hairdryer", "toothbrush",
)
"""The 80 classes of COCO with everyday words for them."""
NO_OBJECTS = ("train track", "train station", "home plate", "bus stop", "toilet paper", "mouse pad",
         "orange juice")
"""Phrases with a class's word in them that are not that class."""
IRREGULAR = {
    "people": "person", "men": "man", "women": "woman", "children": "child", "mice": "mouse",
    "geese": "goose", "oxen": "ox", "calves": "calf", "knives": "knife", "wolves": "wolf",
    "leaves": "leaf", "loaves": "loaf", "feet": "foot", "teeth": "tooth", "buses": "bus",
    "skis": "ski", "shoes": "shoe", "movies": "movie", "cookies": "cookie", "ties": "tie",
    "pies": "pie", "gentlemen": "gentleman", "vases": "vase", "horses": "horse", "tvs": "tv",
}
# fmt: on
ENDINGS = (("ies", "y"), ("ches", "ch"), ("shes", "sh"), ("sses", "ss"), ("xes", "x"), ("oes", "o"))
WORD = re.compile(r"[a-z0-9]+(?:'[a-z]+)?|[,.;:!?]")
"""A word, or a mark that ends a phrase: ``microwave, oven`` are two objects."""

Phrase = tuple[str, ...]


def coco_names() -> list[str]:
    return [line.partition(":")[0] for line in COCO]


def singular(word: str) -> str:
    """Return a word's singular by the regular endings and a few exceptions."""
    if word in IRREGULAR:
        return IRREGULAR[word]
    for ending, new_ending in ENDINGS:
        # At least two letters must remain.
        if word.endswith(ending) and len(word) > len(ending) + 1:
            return word.removesuffix(ending) + new_ending
    # Not ``glass``, ``bus`` and ``tennis``, nor words as short as ``gas``.
    plural = word.endswith("s") and not word.endswith(("ss", "us", "is")) and len(word) > 3
    return word[:-1] if plural else word


def vocabulary(lines: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Parse lines ``name, synonym, synonym`` or ``name: synonym``: synonyms by name."""
    words = (re.split(r"[,:]", line) for line in lines)
    cleaned = ([word.strip().lower() for word in row if word.strip()] for row in words)
    return {row[0]: tuple(row) for row in cleaned if row}


@lru_cache(maxsize=4)
def _phrases(lines: tuple[str, ...]) -> dict[Phrase, str | None]:
    """Map each phrase of singular words to its object; None for a phrase that is no object."""
    # First, so that a task's vocabulary may name such a phrase as an object.
    objects: dict[Phrase, str | None] = {_words(phrase): None for phrase in NO_OBJECTS}
    for name, synonyms in vocabulary(lines).items():
        for synonym in synonyms:
            objects[_words(synonym)] = name
    return objects


def _words(text: str) -> Phrase:
    # Sentences and vocabulary are reduced alike, so that wrong singulars match too.
    return tuple(singular(word.removesuffix("'s")) for word in WORD.findall(text.lower()))


def mentions(text: str, lines: tuple[str, ...]) -> Sequence[str]:
    """List the objects mentioned in a sentence, in order and with repetitions.

    At each word the longest phrase wins, so that a hot dog is no dog. ``lines`` are names with
    their synonyms as in ``vocabulary``.
    """
    objects = _phrases(lines)
    longest = max(map(len, objects))
    words, names, start = _words(text), [], 0
    while start < len(words):
        spans = (words[start : start + size] for size in range(longest, 0, -1))
        # An unknown word is skipped alone.
        phrase = next((span for span in spans if span in objects), words[start : start + 1])
        if name := objects.get(phrase):
            names.append(name)
        start += len(phrase)
    return names
