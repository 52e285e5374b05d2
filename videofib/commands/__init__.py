"""The commands of ``videofib``, one file each; ``main(argv)`` runs the command of the file's name."""
