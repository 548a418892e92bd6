"""Network architectures; none of them knows a noise process, a method or a data set."""
