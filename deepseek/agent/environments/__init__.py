"""Where tools act: a workspace of files, and a sandbox for Python programs.

workspace       one directory, whose paths lead nowhere else
python_sandbox  a program in a process of its own; sandbox_child is that process; landlock, seccomp and kernel confine it
"""
