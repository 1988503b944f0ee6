"""What every room of the package speaks: errors, messages, requests and the events that answer them.

Imports nothing else of ours, and no torch, so that a scheduler, a gateway or an agent can be
tested without a model.
"""
