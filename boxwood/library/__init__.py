"""The functions behind the commands, one file per subject.

Training, evaluation and prediction are in `boxwood.training` and `boxwood.inference`; here are the functions that need several
other packages: checks and statistics of a configuration's data, drawings of samples, weights files, the demo. All of these
functions are names of `boxwood` too; docs/library.md lists them beside the commands.
"""
