"""The offline proposer: a genetic-programming mutator that answers ShinkaEvolve's prompts.

No language model, no key, no network. `agent` is the command; `prompt` reads what is asked for,
`propose` answers with operators from `mutations`, `simplifications` and `grafting` on the syntax
tree of a `program`, and `answers` writes the result in the form that was asked for. Only the
standard library is imported, and nothing here runs a program.
"""
