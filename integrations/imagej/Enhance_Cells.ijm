// Enhance the cells of the open image with cellxlate, and open the result: for ImageJ 1.53 or later, and Fiji.
//
// Put this file into the folder "plugins" of ImageJ or Fiji and restart: Plugins > Enhance Cells. What it needs is told
// in docs/how-to/imagej.md. The open image is not touched: a copy of it is saved, enhanced and read again.
//
// From another macro, without a dialog; each part may be left out, and is separated from the next by a new line:
//   runMacro("/path/to/Enhance_Cells.ijm", "model=auto\nthreshold=0.1\nchannels=1 3\nadapt=0\ncommand=/path/to/cellxlate");

if (nImages == 0) exit("There is no open image; open one, then run Enhance Cells");
original = getImageID();
name = getTitle();
asked = getArgument();
command = findCommand();
call("ij.Prefs.set", "cellxlate.command", command);

model = option("model", "auto");
threshold = option("threshold", "0.1");
channels = option("channels", "all");
adapt = option("adapt", "0");
openReport = false;
if (asked == "") {
  Dialog.create("Enhance Cells");
  Dialog.addString("Model (auto, a name, or a model folder)", model, 24);
  Dialog.addString("Attention to exceed (0 to 1)", threshold, 8);
  Dialog.addString("Channels (all, or numbers from 1)", channels, 8);
  Dialog.addNumber("Learn from this image first, for", 0, 0, 6, "s (0: do not)");
  Dialog.addCheckbox("Open the report in the browser", false);
  Dialog.show();
  model = Dialog.getString();
  threshold = Dialog.getString();
  channels = Dialog.getString();
  adapt = "" + Dialog.getNumber();
  openReport = Dialog.getCheckbox();
}

folder = getDirectory("temp") + "cellxlate_" + d2s(getTime(), 0) + File.separator;
File.makeDirectory(folder);
input = folder + "image.tif";
hidden = is("Batch Mode");
setBatchMode(true);
showStatus("cellxlate: saving a copy of the image ...");
// ImageJ's own save would rename the open image and mark it as saved, so a copy is saved
selectImage(original);
selected = selectionType() != -1;
if (selected) run("Select None"); // or only that part would be copied
run("Duplicate...", "title=copy duplicate");
enhanced = getImageID();
if (selected) {
  selectImage(original);
  run("Restore Selection");
  selectImage(enhanced);
}
if (enhanced == original) exit("The image could not be copied; is there enough memory (Edit > Options > Memory)?");
saveAs("Tiff", input);
showStatus("cellxlate: enhancing; this may take minutes ...");
// plain TIFF: what OME-TIFF packs into tiles (Zstandard) is nothing that ImageJ opens by itself
words = newArray("enhance", input, "--output-dir", folder, "--format", "tiff", "--model", model, "--threshold", threshold);
if (parseFloat(adapt) > 0) words = Array.concat(words, "--adapt", "" + parseInt(adapt));
if (channels != "all" && channels != "") {
  words = Array.concat(words, "--channel");
  numbers = split(channels, " ,");
  for (i = 0; i < numbers.length; i++) words = Array.concat(words, "" + (parseInt(numbers[i]) - 1));
}
said = runCommand(folder, command, words);
if (!File.exists(folder + "image_enhanced.tif") || !File.exists(folder + "image_attention.tif")) {
  selectImage(enhanced);
  close();
  tidy(folder);
  deleted = File.delete(folder);
  selectImage(original);
  if (!hidden) setBatchMode(false);
  exit(lastLine(said));
}

said = summary(said);
replacePixels(enhanced, folder + "image_enhanced.tif");
stem = withoutEnding(name);
rename(stem + "_enhanced");
setMetadata("Info", getMetadata("Info") + "\ncellxlate\n" + said);
setOption("Changes", true); // so that closing asks: the image lies in no lasting file
attention = openAttention(enhanced, folder + "image_attention.tif");
rename(stem + "_attention");
setOption("Changes", true);
tidy(folder);
selectImage(enhanced);
if (!hidden) setBatchMode("exit and display");
showStatus("cellxlate: " + replace(substring(said, lastIndexOf(said, "verdict ") + 8), "\\s+", " "));
print("cellxlate: " + name);
print(said);
if (openReport) run("URL...", "url=[file://" + replace(folder, "\\", "/") + "image_report.html]");


// The value of a part of the argument, or what holds where it is not given.
function option(key, otherwise) {
  lines = split(getArgument(), "\n");
  for (i = 0; i < lines.length; i++)
    if (startsWith(lines[i], key + "=")) return substring(lines[i], lengthOf(key) + 1);
  return otherwise;
}

function isWindows() {
  return startsWith(getInfo("os.name"), "Windows");
}

// Run a command; return what it prints, errors too, which `exec` by itself does not give.
function runCommand(folder, command, words) {
  if (isWindows()) {
    batch = folder + "run.bat";
    File.saveString("@%* 2>&1\r\n", batch); // "call", or cmd takes the first and the last quotation mark away
    all = Array.concat(newArray("cmd", "/c", "call", batch, command), words);
  } else {
    all = Array.concat(newArray("/bin/sh", "-c", "exec \"$0\" \"$@\" 2>&1", command), words);
  }
  line = ""; // `exec` takes no array, so its call is written out
  for (i = 0; i < all.length; i++) {
    word = replace(all[i], "\\", "\\\\");
    line = line + ", \"" + replace(word, "\"", "\\\"") + "\"";
  }
  return eval("return exec(" + substring(line, 2) + ");");
}

// The path of the command: the one that is given, the one of the last time, that on the PATH, or what is asked for.
function findCommand() {
  given = option("command", "");
  if (given != "") {
    if (works(given)) return given;
    exit(given + " is not the command cellxlate; check command=...");
  }
  known = call("ij.Prefs.get", "cellxlate.command", "");
  if (works(known)) return known;
  if (isWindows()) lines = split(exec("cmd", "/c", "where", "cellxlate"), "\n");
  else lines = split(exec("/bin/sh", "-c", "command -v cellxlate"), "\n");
  for (i = 0; i < lines.length; i++)
    if (works(lines[i])) return lines[i];
  if (getArgument() != "") exit("The command cellxlate is not on the PATH; give its path with command=...");
  showMessage("Enhance Cells", "Show where the command cellxlate lies: in the folder bin (Windows: Scripts)\nof the "
      + "environment that it is installed in. This is asked once.");
  chosen = File.openDialog("The command cellxlate (Windows: cellxlate.exe)");
  if (works(chosen)) return chosen;
  exit(chosen + " is not the command cellxlate; see docs/how-to/install.md");
}

function works(command) {
  if (command == "") return false;
  if (!File.exists(command)) return false;
  return startsWith(exec(command, "--version"), "cellxlate ");
}

// Put the pixels of a file into an image of the same size, and leave all else of it as it is.
function replacePixels(image, path) {
  open(path);
  pixels = getImageID();
  setPasteMode("Copy");
  for (i = 1; i <= nSlices; i++) {
    selectImage(pixels);
    if (nSlices > 1) setSlice(i);
    run("Select None");
    run("Copy");
    selectImage(image);
    if (nSlices > 1) setSlice(i);
    run("Paste");
  }
  run("Select None");
  selectImage(pixels);
  close();
  selectImage(image);
}

// Open an attention file with the axes and the calibration of an image.
function openAttention(image, path) {
  selectImage(image);
  Stack.getDimensions(width, height, channels, slices, frames);
  getVoxelSize(x, y, z, unit);
  interval = Stack.getFrameInterval();
  open(path);
  if (nSlices > 1)
    run("Stack to Hyperstack...", "order=xyczt(default) channels=" + channels + " slices=" + slices + " frames=" + frames
        + " display=Color");
  setVoxelSize(x, y, z, unit);
  if (frames > 1) Stack.setFrameInterval(interval);
  if (bitDepth() == 8) {
    for (i = channels; i >= 1; i--) {
      if (channels > 1) Stack.setChannel(i);
      run("Fire"); // black where the pixel was kept
      setMinAndMax(0, 255);
    }
  }
  return getImageID();
}

function tidy(folder) {
  files = newArray("image.tif", "image_enhanced.tif", "image_attention.tif", "run.bat");
  for (i = 0; i < files.length; i++)
    if (File.exists(folder + files[i])) deleted = File.delete(folder + files[i]);
}

function withoutEnding(name) {
  return replace(name, "(\\.ome)?\\.[A-Za-z0-9]{2,4}$", "");
}

function lastLine(text) {
  lines = split(text, "\n");
  if (lines.length == 0) return "cellxlate said nothing; run it in a terminal to see why";
  return lines[lines.length - 1];
}

// What the command says, without the names of the files that are gone once they are open.
function summary(text) {
  lines = split(text, "\n");
  kept = "";
  for (i = 0; i < lines.length; i++)
    if (!startsWith(lines[i], "enhanced ") && !startsWith(lines[i], "attention ")) kept = kept + lines[i] + "\n";
  return kept;
}
