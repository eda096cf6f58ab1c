"""One HTML page that tells what an evolution did: ``python -m eplb.report <results folder>``.

Covered: everything that ShinkaEvolve keeps in a results folder about scores, islands, lineage,
failures and cost, as one file that needs neither a network nor JavaScript, also while the run is
still going on. Not covered: the prompts and the programs' full code other than the best one's
(`shinka_visualize` shows those).

`program` (by `eplb.evolution.rundb`) and `side_files` read, `history` and `accounts` work out what
happened, `figures` draws, `page` writes HTML. Nothing here imports shinka.
"""
