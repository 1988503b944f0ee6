"""Images, sounds and films from strangers: what they are by their bytes, and how large, before anything decodes them."""
