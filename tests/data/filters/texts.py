"""Seeded synthetic texts that sit around the thresholds of the published filters."""

import random

COMMON = "the be to of and that have with from this they people water under between garden letter window morning answer".split()
RARE = [a + b for a in ("bar", "lin", "tor", "mek", "sul", "ven", "dra", "pol") for b in ("ith", "one", "ast", "ure", "eld", "amo", "iker", "osso")]


def text(seed: int) -> str:
    """Lines of sentences with some of: repeated lines and phrases, bullets, hashes, ellipses, numbers, braces, policy lines."""
    rng = random.Random(seed)
    words = COMMON + RARE
    phrase = " ".join(rng.choices(words, k=rng.randint(3, 9)))
    lines = []
    for _ in range(rng.randint(3, 14)):
        line = []
        for _ in range(rng.randint(1, 4)):
            sentence = rng.choices(words, k=rng.randint(1, 12))
            if rng.random() < 0.12:
                sentence.append(phrase)
            sentence += rng.choices(["2024", "17", "#", "..."], k=rng.choice([0, 0, 0, 1, 3]))
            line.append(" ".join(sentence) + rng.choice([".", ".", "!", "?", "", " ..."]))
        lines.append(rng.choice(["", "", "", "- ", "• "]) + " ".join(line))
        if rng.random() < 0.15:
            lines.append(rng.choice(lines))
        if rng.random() < 0.04:
            lines.append(rng.choice(["We use cookies on this page.", "Lorem ipsum dolor sit amet.", "if (x) { return y; }.", "Enable javascript to read on."]))
        if rng.random() < 0.3:
            lines.append("")
    return "\n".join(lines)


COUNT = 400
