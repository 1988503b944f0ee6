"""From conversations to token ids and back: chat templates now, stream parsers and language models to come."""
