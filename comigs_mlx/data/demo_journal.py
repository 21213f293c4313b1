"""An invented lighthouse keeper's log, for the demo persona `journal`.

A small grammar composes it from a seed, so that it is the same everywhere. Its private
facts (the dog, the boat, the locker, the lamp's name...) come back through the log, as
they do in anyone's own text: a specialist has to learn them.
"""

from __future__ import annotations

import datetime
import random
import re
from collections.abc import Iterator

GRAMMAR: dict[str, list[str]] = {
    "entry": [
        "{weather} {lamp} {day} {day} {night}",
        "{weather} {day} {lamp} {day}",
        "{lamp} {weather} {day} {day} {thought} {night}",
        "{weather} {day} {thought} {night}",
        "{weather} {lamp} {thought}",
        "{day} {weather} {lamp} {day} {night}",
    ],
    "wind": (
        "north-east|west|south-west|due north|a sulky south-east|"
        "none worth the ink|north-west, with teeth in it"
    ).split("|"),
    "sea": (
        "flat as poured tin|short and cross|the colour of old slate|"
        "heaped up on the Widow's Teeth|long, slow and thinking of something else|"
        "white to the horizon|green in the sun and black out of it"
    ).split("|"),
    "glass": "falling|falling fast|steady|rising a hair|steady, which I distrust".split(
        "|"
    ),
    "weather": [
        "Wind {wind}; sea {sea}; the glass {glass}.",
        "Wind {wind} by the {hour} bell, the sea {sea}.",
        "Fog from {hour} on, thick enough to lean a ladder against. Horn sounded three "
        "short and one long, as it is done here and nowhere else.",
        "Rain all morning. The gauge says {number} tenths and I add one, for the gauge "
        "has leaked since Hallam sat on it.",
        "A clear day, the sea {sea}. Counted {number} sail before dinner.",
        "The gulls inland and the glass {glass}: wind before night.",
    ],
    "hour": "two|three|four|five|six|seven".split("|"),
    "number": "four|five|seven|eight|nine|eleven|twelve|fourteen".split("|"),
    "lamp": [
        "Old Margit lit at {hour}, trimmed twice, no smoke.",
        "Margit would not catch until I gave the pump two knocks and a half turn, "
        "which is the only language she respects.",
        "Wound the clockwork at {hour}; it wants {number} turns more than it did under "
        "my predecessor, or I have {number} turns less in me.",
        "Cleaned the {side} panes with vinegar. A {bird} had signed the glass.",
        "Lamp burned clean till dawn. I told Old Margit so, and she took it well.",
        "Oil at {number} inches in the tank. The boat must bring more by the second "
        "Thursday or we shall be burning the butter.",
    ],
    "side": "seaward|landward|northern|western".split("|"),
    "bird": "gannet|fulmar|black-backed gull|very small owl|shag".split("|"),
    "day": [
        "{dog}",
        "{boat}",
        "{letter}",
        "{chore}",
        "{table}",
        "{visitor}",
        "{find}",
    ],
    "dog": [
        "Bishop barked at the {bird} for an hour and has declared a victory.",
        "Bishop found the {food} in spite of the string, the shelf and the sermon.",
        "Took Bishop down to the Kettle, where he drank seawater again and again was "
        "surprised.",
        "Bishop limps on the left fore paw when it is cold and on the right when he is "
        "watched.",
        "The dog slept across the stair, as is his right, being named in the lease.",
    ],
    "boat": [
        "The Patience came round the point at {hour} with Hallam Reyes standing up in "
        "her like a badly driven nail. {cargo}",
        "No Patience today. Hallam flew two blue flags from the mainland, which means "
        "the engine, or his mother.",
        "Hallam brought the mail and stayed for {food}. {cargo}",
        "Boat day, and for once a boat. {cargo}",
    ],
    "cargo": [
        "Took ashore {number} tins, a sack of coal and one opinion I had not ordered.",
        "He had forgotten the wicks and remembered the {food}, and was forgiven.",
        "Landed paraffin, flour and a parcel from Odile, all dry, all counted.",
        "Stowed it in locker four-one-seven and hung the key where it hangs, under the "
        "third barrel.",
    ],
    "letter": [
        "A letter from Odile at Port Anders: {news}",
        "Wrote to Odile. I said that I was warm, which will be true in {number} weeks.",
        "Odile asks once more if I mean to stay a tenth year. I sharpened the pencil "
        "and drew her the {bird} instead.",
        "Read Odile's last letter again: {news}",
    ],
    "news": [
        "the pear tree bore {number} pears and she gave none to the vicar.",
        "the twins have learned to whistle, and she sleeps in the pantry.",
        "she has painted her door the red of our {side} buoy, to annoy the street.",
        "the bakery has a new oven and the baker an old cough.",
        "her clock has stopped at {hour}, so it is now always time for tea.",
    ],
    "chore": [
        "Tarred the {side} gutter and a good part of myself.",
        "The stove smokes with the glass {glass}. Put the slate against the flue, as "
        "Grandmother Ilse did, and it drew.",
        "Counted the stair, as one must now and then: one hundred and "
        "thirty-eight steps, and the one that is not there.",
        "Mended the {side} shutter with a piece of the Corrigan, which has now been a "
        "ship, a bench, a shelf and a shutter.",
        "Checked the stores in locker four-one-seven against the book. The book is "
        "{number} candles ahead of us.",
        "Whitewashed from {hour} until the bucket gave out. The rock looks at me "
        "differently.",
    ],
    "table": [
        "Supper: {food}, and nettle tea with a pinch of salt, as it is drunk here.",
        "Baked. The loaf may be of use to the masons.",
        "The hens on the lee side gave {number} eggs, Duchess not among the givers.",
        "Opened the last jar of Odile's plums and stood a while with the lid.",
        "Ate {food} on the gallery with my boots off, there being nobody within "
        "{number} miles to report me.",
    ],
    "food": (
        "smoked mackerel|barley soup|cold mutton|potatoes in their coats|"
        "hard cheese|blood sausage|oatcake and dripping"
    ).split("|"),
    "visitor": [
        "A {bird} sat out the squall on the rail and left without thanks.",
        "The inspector passed in the cutter, {number} cables off, and looked at us "
        "through a glass. I looked back through a better one.",
        "Seals on the Kettle, {number} of them, singing like a vestry meeting.",
        "Spoke a herring drifter by lamp. They wanted the time. I gave them mine.",
        "A painter rowed out from Port Anders to ask about the light. I said it goes "
        "round.",
    ],
    "find": [
        "The tide left a {thing} in the Kettle. Entered in the other book.",
        "Found a {thing} behind the barrels, and cannot say whose youth it was.",
        "Washed up this morning: {number} oranges and a {thing}. The oranges are "
        "salted but willing.",
    ],
    "thing": (
        "left boot|cork float with the letter K|glass bottle and no message|"
        "chair with three legs|bell without a tongue|tin of brass buttons|"
        "child's wooden horse|length of very good rope"
    ).split("|"),
    "thought": [
        "Grandmother Ilse held that a light is a promise made to strangers. I think of "
        "it mostly when carrying the oil.",
        "Nine years on Skerry Vell and I still say good evening to the rock, in case.",
        "One is never alone with a clockwork. One is only outnumbered by it.",
        "If I were asked what the sea is like I should say: like this, but wetter.",
        "It came to me on step {number} that I have not been angry since the Thursday "
        "of the wicks.",
        "The town believes that it sends us light money. We send it the town.",
        "Silence today of the third kind, the one with a kettle in it.",
    ],
    "night": [
        "Radio at {hour}: Vell Light on channel fourteen, all well, nobody asking.",
        "To bed at {hour}. The beam goes over the ceiling every eleven seconds, and I "
        "have stopped counting for it.",
        "Watch kept till {hour}. Bishop kept the other half, on his back.",
        "Wrote this with the short pencil. All well on Vell, and the light is on.",
        "All well on Vell, and the light is on.",
    ],
}
"""Maps a symbol to its expansions; a `{symbol}` inside one is expanded in its turn."""

MONTHS = (
    "January February March April May June July August September October November "
    "December"
).split()


def entries(count: int = 300, seed: int = 417) -> Iterator[str]:
    """Yield the first `count` entries of the log that `seed` decides.

    Each is a heading (number, date) and one paragraph; no two are equal, for the
    numbers differ.
    """
    rng = random.Random(seed)
    # Only the month and the day are printed; the year just has to be fixed.
    day = datetime.date(1931, 3, 3)
    for number in range(1, count + 1):
        heading = f"Skerry Vell, entry {number}. {day.day} {MONTHS[day.month - 1]}."
        yield f"{heading}\n{_compose(rng)}"
        day += datetime.timedelta(days=1 + int(3 * rng.random()))


def _compose(rng: random.Random) -> str:
    """Compose one entry's paragraph, with no expansion used twice."""
    used: set[str] = set()

    def expand(symbol: str) -> str:
        options = [text for text in GRAMMAR[symbol] if text not in used]
        options = options or GRAMMAR[symbol]
        # Only random() is promised to be the same in every version of Python.
        text = options[int(len(options) * rng.random())]
        used.add(text)
        return re.sub(r"{(\w+)}", lambda match: expand(match[1]), text)

    return expand("entry")
