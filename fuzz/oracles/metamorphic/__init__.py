"""Metamorphic relations: launches whose outputs determine each other, whatever the right values are.

They need no reference for the values. `catalogue.RELATIONS` lists them, `runner.run` tries them on one case.
"""
