"""Seeded synthetic texts with planted near duplicates."""

import random


def near_duplicates(count: int, seed: int = 0, words: int = 120, change: float = 0.02) -> list[str]:
    """`count` texts of plain lower-case words; every third is the one before it with each word replaced with probability up to 3·`change`."""
    rng = random.Random(seed)
    vocabulary = [a + b + c for a in ("ba", "li", "to", "me", "su", "ve", "dra", "po") for b in ("n", "r", "st", "mp", "ll") for c in ("a", "o", "ing", "er", "us", "et")]
    texts: list[str] = []
    for number in range(count):
        if number % 3 == 2:
            rate = rng.uniform(0, 3 * change)
            texts.append(" ".join(rng.choice(vocabulary) if rng.random() < rate else word for word in texts[-1].split()))
        else:
            texts.append(" ".join(rng.choices(vocabulary, k=rng.randint(words // 2, words))))
    return texts
