"""The tools that workflows find here, one file for each kind; see agent_server/tools/declare.py for how to add one."""
