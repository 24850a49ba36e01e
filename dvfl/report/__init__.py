"""Tables, figures and the closing summary, from the files that the runs left under results/.

`tables.TABLES` and `figures.FIGURES` name what there is; `inputs` says which files each needs.
"""
