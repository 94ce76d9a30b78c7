def write_report(study, folders):
    return None
