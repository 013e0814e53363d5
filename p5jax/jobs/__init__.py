"""The jobs: one file each, with one function of the same name.

A job that reads gin files takes them by their names, the values that replace theirs as `bindings`
("TrainConfig.steps" -> 100), and values of macros as keywords (STEPS=100).
"""
