"""Requests to tokens: scheduler, key-value blocks, worker, sampler, and the engine that runs them.

`request`, `blocks`, `scheduler` and `plan` import no torch, so that they can be simulated by the thousand.
"""
