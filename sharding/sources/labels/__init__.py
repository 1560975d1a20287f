"""Labels that do not stand in folder names: tables beside images, lists of classes, labels of WebDataset samples."""
