// The page of one model.
import { frame } from "./frame.js";
import { drawLayers } from "./layers.js";
import { drawFacts, drawMade } from "./made.js";
import { drawNeurons, paintNeurons } from "./neurons.js";
import { drawSentences } from "./sentences.js";
import { drawWalk, paintWalk } from "./walk.js";

frame(
  () => {
    drawFacts();
    drawWalk();
    drawLayers();
    drawNeurons();
    drawSentences();
    drawMade();
  },
  () => {
    paintWalk();
    paintNeurons();
  },
  { step: "", neuron: "neuron", sentence: "sentences", cell: "sentences" },
);
