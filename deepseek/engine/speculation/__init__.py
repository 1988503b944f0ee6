"""Guessing several tokens a step without changing one of them: where guesses come from, and whether they pay."""
