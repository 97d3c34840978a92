"""LTM, its rivals and the controls on sets of pictures that come with packages: docs/study.md."""
