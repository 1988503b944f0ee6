"""Perception: what a user hands over becomes parts of a message, and what the model cannot take becomes text, said to be so.

recognise     what the bytes are: by their content, whatever they are called          `recognise`
check         how large, how long, how many pixels: from headers, before any decoding  `deepseek.core.media`
read          documents become text                                                    `documents`
perceive      speech, text in images: by a registered perceiver                        `perceivers`
show          a film becomes some of its frames                                        `frames`
"""
