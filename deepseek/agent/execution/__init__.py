"""What an agent does: tools, their arguments and results, and the executor that runs their calls.

tool          Tool, ToolContext, Toolset: what travels
schema        a function's signature and docstring -> JSON schema and checked arguments; foreign schemas normalised
registry      ToolRegistry: tools by name
executor      Executor: the calls of one step, in parallel, each bounded in time, size and number
invoke        one call of one function: as a task (timeout), in a thread (threads), in a process (isolate)
approval, cache, retry, results, names, errors: one idea each
"""
