"""The way from images to predictions, copied as it is into every logged model.

It lies there beside the package ``ltm`` and must not import anything else of the platform.
"""
