"""Tools of other programs, and ours for them, by the Model Context Protocol (https://modelcontextprotocol.io), with the
official SDK (the extra `[mcp]`).

    client      a server's tools as a toolset of an agent
    owner       one task owns a connection from its beginning to its end; everybody else speaks to it by a queue
    stdio       a server as a process: messages are lines, bounded; its last words are kept
    http        a server at an address, its answers bounded
    contents    what a tool of a server answers, as parts of a message
    server      the tools of a registry for any client of the protocol
"""
