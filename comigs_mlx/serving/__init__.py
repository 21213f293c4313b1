"""An OpenAI-compatible server: the base, and runs on it, to programs of this machine.

http.py        one connection: who may ask, what is asked, how it is written
  access.py      key, Host and Origin
  requests.py    a body of JSON -> what is asked
  catalogue.py   the name of a model -> a run and a selection
  replies.py     tokens -> the JSON of an answer, whole or in pieces
scheduler.py   the one thread that loads, reads and draws; batches by experts
refusals.py    an error as OpenAI's clients expect it
"""
