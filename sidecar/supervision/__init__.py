"""The agent's process beside us: started, asked whether it serves, watched, repaired, ended.

`child.py` is one process, `serving.py` asks it whether it serves, `symptoms.py` judges what is seen of it, `supervisor.py` acts.
"""
