"""Agents over the API: `/v1/agents` and their runs. The server's own model decides, and each of its turns goes the way of any
other request: budgets, load, plugins and metrics hold for it.

    configured    the agents of the server's configuration
    turns         the server's model as an agent sees it, in the name of whoever asked for the run
    live          runs that go on in this process, and who follows them
    documents     a run and its events as they are shown
    runs          begin, go on, cancel, find
    routes        the endpoints
"""
