"""Many more ways to say what the basic families ask: patterns with alternatives, everyday frames, slips of the keyboard."""
