"""What an agent decides: its plan, its next action, when it is done, and when it has to stop.

loop        reason, act, observe, until there is an answer or a limit
limits      bounds on steps, calls, tokens, time and money, and what was spent of them
plan        a typed plan under a JSON schema, and the order it gives to calls
final       typed final answers: a Python type -> a schema -> a checked value
reflection  a second look at an answer
"""
