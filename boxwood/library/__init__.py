"""What the commands of the command line do, as functions: one file a subject.

Training, evaluation and prediction have their own packages (`boxwood.training`, `boxwood.inference`); here is what needs several of
the others: checks and statistics of a configuration's data, drawings of samples, weights files, the demo. All of these functions
are names of `boxwood` too; docs/library.md lists them beside the commands.
"""
