"""The studies: a file each, whose name is that of the study with _ for -, and which has a STUDY."""
